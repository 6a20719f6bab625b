"""`pytest --impl=course:FOLDER`: a solution of the Amsterdam course's template, asked as it is, without an adapter by its author.

files      which of the template's files a folder has, and where
clip       a stand-in for OpenAI's `clip` package around the open_clip model that a statement gives
args       the command line's `args`, with the template's defaults and the solution's own
absent     what else is not there while a solution runs: packages, CIFAR, CUDA, downloads, worker processes
bench      what a statement gives, as the template's code finds it
part1      the names that part 1 (fine-tuning) has: train.py, cifar100_utils.py
part2      the names that part 2 (CLIP and prompts) has: vp.py, vpt_model.py, dpt_model.py, clipzs.py, learner.py, ...
template   which of the specification's names a folder has, and where its code runs

Everything is done by the solution's own classes and functions; what is set from outside are arguments, attributes that the
template names, and names that its modules import.
"""
