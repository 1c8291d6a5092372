"""Tables 2 to 6: what each row needs, its runs, and the table they make."""
