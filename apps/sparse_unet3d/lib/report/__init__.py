"""Pages and pictures for people; nothing here measures."""
