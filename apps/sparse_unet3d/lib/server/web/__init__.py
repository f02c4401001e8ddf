"""What clients reach: the routes, their requests as types, and who may ask. The work itself is done elsewhere."""
