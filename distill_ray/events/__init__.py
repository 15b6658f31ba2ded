"""Records without behaviour that every stage reports with, and their form as lines of a job's log."""
