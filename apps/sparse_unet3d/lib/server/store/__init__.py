"""The datastore: images, submissions, versions of annotations and predictions in a folder."""
