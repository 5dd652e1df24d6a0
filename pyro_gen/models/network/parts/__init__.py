"""What models of networks share."""
