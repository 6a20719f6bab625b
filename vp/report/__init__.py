"""What the report states, what was measured, and the page that shows both."""
