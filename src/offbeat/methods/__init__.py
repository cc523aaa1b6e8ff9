"""The methods, one folder for each paper: settings, equations, search. They see protocols only."""
