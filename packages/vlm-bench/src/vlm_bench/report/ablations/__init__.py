"""The paper's ablations (Tables 2 to 5) beside the results of a sweep."""
