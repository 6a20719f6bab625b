"""The report's statements, the numbers measured here, and the page that shows both."""
