"""Running a request again from its replay bundle."""
