"""A local BigQuery for tests and benchmarks: REST, the Storage Read API, and faults on demand.

    with LocalBigQuery() as server:
        server.load("project.dataset.table", rows)
        server.faults(ReadFault(at_message=3, code="UNAVAILABLE"))
        ...  # the official clients, pointed at server.rest and server.grpc

`local.py` is what tests use. The process behind it (`python -m tests.bigquery_server`):

    __main__      builds the parts, starts them, waits
    rest          BigQuery v2 over HTTP      rows       rows and schemas as its JSON
    read_service  BigQueryRead over gRPC     sessions   snapshots dealt to streams, as messages
    jobs          query jobs                 engine     DuckDB, which answers them
    sql           BigQuery's SQL as DuckDB's
    catalog       datasets, tables, versions schema     Arrow types as BigQuery's, and back
    tokens        service accounts, bearers  control    what the wrapper asks of the process
    faults, settings, stats, errors          values that the others share
"""

from tests.bigquery_server.faults import Faults, ReadFault, RestFault, SessionFault
from tests.bigquery_server.local import LocalBigQuery
from tests.bigquery_server.settings import Settings

__all__ = ["Faults", "LocalBigQuery", "ReadFault", "RestFault", "SessionFault", "Settings"]
