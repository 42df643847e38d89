"""What runs in a user's own environment. Imports no other part of timeshare: it speaks HTTP to the service."""
