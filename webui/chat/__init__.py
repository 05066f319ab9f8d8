"""What the Chat tab is made of: how a conversation looks, what its buttons do, who follows it."""
