"""Jobs in separate processes, with a folder from which a later command resumes."""
