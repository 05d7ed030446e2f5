"""Jobs in processes of their own, whose folder a later command continues."""
