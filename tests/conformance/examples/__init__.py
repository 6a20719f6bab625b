"""A solution in the course's own signatures (`course_solution`), and the adapter that conformance mode takes (`course_adapter`)."""
