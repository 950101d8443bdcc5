"""A running lab in words: who is on, who serves, what the nodes themselves report; and their logs as files."""
