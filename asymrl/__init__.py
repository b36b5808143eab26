"""AsymRL: reinforcement learning with verifiable rewards, readable in an evening."""
