"""BigQuery as a source: jobs and metadata over REST, rows over the Storage Read API.

    connection    the two clients of one daemon's settings, and whose credentials they carry
    faults        what an exception means: try again, or which of our errors
    sql           the few statements that we send, and the text of the hash split
    jobs          metadata, dry runs, counts, results of queries
    session       read sessions: streams of rows, as of one moment
    stream        one stream, from any offset on, that resumes by itself
    table         the source: what the daemon's workers read

What is known of the service, with its documents, stands beside the code that depends on it.
"""
