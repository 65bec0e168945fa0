"""What an evaluation leaves for people and spreadsheets: CSV, Markdown and one page with pictures."""
