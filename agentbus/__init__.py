"""agentbus."""
