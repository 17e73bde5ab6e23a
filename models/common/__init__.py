"""What several families share: encoders of features, matching, ranking, gathering over processes."""
