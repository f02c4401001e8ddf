"""HTML pages and pictures for people; nothing here measures."""
