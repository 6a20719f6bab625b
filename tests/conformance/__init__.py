"""`pytest --impl my_solution.py`: the specification, asked of someone else's implementation.

names      the public names that a solution may have, how they are called, and what they give back
ours       the same names, as vp has them: what the specification is asked of without --impl
foreign    importing a solution and calling it, watched: time, exceptions, changed inputs, results of another kind
options    --impl, --time-limit and --scores
notebooks  of a notebook, what its cells define
folders    a folder as a solution: a package, or files beside each other
plugin     the pytest side: which tests are asked, in processes of their own
table      what came of it: a table a section, on the terminal, as JSON and in the HTML report
course     a folder of the course's template as it is, without an adapter: --impl=course:FOLDER
scores     points for statements
formats    Gradescope, GitHub Classroom, JUnit, CSV, a page for each student
check      `python -m vp check`: many solutions, each in a session of its own (what they are: submissions)
examples   a folder of the course's template; a solution in other signatures, and the adapter that it takes

Rules for tests marked `specifies`: behaviour only, no attribute or message of ours; what is judged is computed by no code of vp;
assertions say in words what is wrong; what a solution is given (a model, a tensor) is its own, for it may keep it.
"""
