"""What a person looks at: tables, a page, text on a terminal."""
