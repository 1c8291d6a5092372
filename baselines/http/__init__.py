"""What the methods behind a paid HTTP interface share: client, journal, jobs, downloads. No method by itself."""
