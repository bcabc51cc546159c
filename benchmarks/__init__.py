"""What each part costs, against what a user would run instead; each file is a command."""
