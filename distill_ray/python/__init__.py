"""What notebooks and scripts call and no command does: whole trainings in one call, and the functions on
files with messages that name arguments.
"""
