"""Several programs as one: learnt, scored by hidden entries, weighed, mixed, and their draws and expectations."""
