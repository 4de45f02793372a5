"""What runs a submodel, and one beside another."""
