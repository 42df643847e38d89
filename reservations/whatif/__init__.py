"""What other limits would have done: real arrivals through the real decision, under both, compared."""
