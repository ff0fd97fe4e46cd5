"""The page where a person ranks: a small server over the inbox, and one static page."""
