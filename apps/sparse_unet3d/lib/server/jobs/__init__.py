"""Work in processes of its own: trainings, scorings and batch inference, of which other servers know too."""
