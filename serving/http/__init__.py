"""HTTP: the routes and what surrounds a request."""
