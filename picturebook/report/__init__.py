"""Tables, pages and commands that show what was trained."""
