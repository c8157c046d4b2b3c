"""Pages for the operator, who has signed in: every one of them needs an admin's session."""
