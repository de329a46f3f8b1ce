"""The table at the end of a bench run: figure, target, met or missed. Knows the targets; measures nothing."""

import statistics

# Scenario, text, figure out of the scenario's dict, unit, target ("" = none).
ROWS = [
    ("drain", "deliveries/s, end to end", lambda f: f["per_s"], "/s", ""),
    ("drain", "the bare libcurl loop beside it (R)", lambda f: f["bare_per_s"], "/s", ""),
    ("drain", "ratio to R", lambda f: f["ratio"], "", ">= 0.5"),
    ("drain", "worker CPU per delivery", lambda f: f["cpu_us"]["worker"], "us", ""),
    ("drain", "bare loop CPU per request", lambda f: f["bare_cpu_us"], "us", ""),
    ("drain", "worker CPU / bare loop CPU", lambda f: f["cpu_ratio"], "", "<= 2"),
    ("drain", "PostgreSQL CPU per delivery", lambda f: f["cpu_us"]["postgres"], "us", ""),
    ("drain", "Kafka CPU per delivery", lambda f: f["cpu_us"]["kafka"], "us", ""),
    ("drain", "receiver CPU per delivery", lambda f: f["cpu_us"]["sink"], "us", ""),
    ("latency", "event to receiver at 1 000/s, p50", lambda f: f["p50_ms"], "ms", "<= 5"),
    ("latency", "event to receiver at 1 000/s, p99", lambda f: f["p99_ms"], "ms", "<= 25"),
    ("delay", "deliveries/s when answers take 100 ms", lambda f: f["per_s"], "/s", ">= 5000"),
    ("delay", "its peak RSS", lambda f: f["peak_rss_mib"], "MiB", ""),
    ("flight", "peak requests in flight (answers take 2 s)", lambda f: f["peak_in_flight"], "", ">= 5000"),
    ("flight", "peak RSS with them", lambda f: f["peak_rss_mib"], "MiB", "<= 256"),
    ("hosts_many", "5 000 hosts, own addresses: ratio to R", lambda f: f["ratio"], "", ">= 0.4"),
    ("hosts_many", "its worker CPU per delivery", lambda f: f["cpu_us"]["worker"], "us", ""),
    ("hosts_one", "5 000 hosts, one address: ratio to R", lambda f: f["ratio"], "", ">= 0.4"),
    ("hosts_one", "its worker CPU per delivery", lambda f: f["cpu_us"]["worker"], "us", ""),
    ("hosts_tls", "5 000 hosts, TLS kept alive: ratio to R", lambda f: f["ratio"], "", ""),
    ("hosts_tls", "its worker CPU per delivery", lambda f: f["cpu_us"]["worker"], "us", ""),
    ("tls_connect", "worker CPU per new TLS connection", lambda f: f["handshake_us"]["worker"], "us", ""),
    ("tls_connect", "nginx CPU per new TLS connection", lambda f: f["handshake_us"]["nginx"], "us", ""),
    ("retries", "retries/s from a full backlog", lambda f: f["per_s"], "/s", ""),
    ("retries", "worker CPU per retry", lambda f: f["cpu_us"]["worker"], "us", ""),
    ("retries", "PostgreSQL CPU per retry", lambda f: f["cpu_us"]["postgres"], "us", ""),
    ("retries", "Redis CPU per retry", lambda f: f["cpu_us"]["redis"], "us", ""),
    ("retries", "claimed in vain, per retry", lambda f: f["given_back"], "", ""),
    ("dead", "event to healthy receiver, alone, p99", lambda f: f["alone"]["p99_ms"], "ms", ""),
    ("dead", "beside 99 % dead endpoints, p99", lambda f: f["beside"]["p99_ms"], "ms", ""),
    ("dead", "ratio of the two", lambda f: f["p99_ratio"], "", "<= 2"),
    ("dead", "attempts/s at the dead ones", lambda f: f["dead_attempts_per_s"], "/s", ""),
    ("dead", "worker CPU alone", lambda f: f["alone"]["worker_cores"], "cores", ""),
    ("dead", "worker CPU beside them", lambda f: f["beside"]["worker_cores"], "cores", ""),
    # 5 000 000 attempts of 1 000 webhooks; "heavy": the one webhook that has 500 000 more. Four clients at once.
    ("api", "log, first page, p99", lambda f: f["first"]["p99_ms"], "ms", "<= 20"),
    ("api", "log, page 100, p99", lambda f: f["page_100"]["p99_ms"], "ms", "<= 20"),
    ("api", "log, by cursor, p99", lambda f: f["cursor"]["p99_ms"], "ms", "<= 20"),
    ("api", "a delivery, p99", lambda f: f["detail"]["p99_ms"], "ms", "<= 20"),
    ("api", "statistics of 24 hours, p99", lambda f: f["stats"]["p99_ms"], "ms", ""),
    ("api", "heavy: log, first page, p99", lambda f: f["heavy_first"]["p99_ms"], "ms", "<= 20"),
    ("api", "heavy: log, page 100, p99", lambda f: f["heavy_page_100"]["p99_ms"], "ms", "<= 20"),
    ("api", "heavy: log, by cursor, p99", lambda f: f["heavy_cursor"]["p99_ms"], "ms", "<= 20"),
    ("api", "heavy: a delivery, p99", lambda f: f["heavy_detail"]["p99_ms"], "ms", ""),
    ("api", "heavy: a delivery with attempted_at, p99", lambda f: f["heavy_detail_hint"]["p99_ms"], "ms", "<= 20"),
    ("api", "heavy: statistics of 168 hours, p99", lambda f: f["heavy_stats"]["p99_ms"], "ms", ""),
    ("api", "list: requests/s", lambda f: f["first"]["per_s"], "/s", ""),
    ("api", "list: pgbench with its statements", lambda f: f["floor_list"]["per_s"], "/s", ""),
    ("api", "list: API CPU per request", lambda f: f["first"]["cpu_us"]["api"], "us", ""),
    ("api", "list: PostgreSQL CPU per request", lambda f: f["first"]["cpu_us"]["postgres"], "us", ""),
    ("api", "list: PostgreSQL CPU under pgbench", lambda f: f["floor_list"]["cpu_us"], "us", ""),
    ("api", "create: requests/s", lambda f: f["create"]["per_s"], "/s", ""),
    ("api", "create: pgbench with its statements", lambda f: f["floor_create"]["per_s"], "/s", ""),
    ("api", "create: API CPU per request", lambda f: f["create"]["cpu_us"]["api"], "us", ""),
    ("api", "create: PostgreSQL CPU per request", lambda f: f["create"]["cpu_us"]["postgres"], "us", ""),
    ("api", "create: PostgreSQL CPU under pgbench", lambda f: f["floor_create"]["cpu_us"], "us", ""),
]


# With more than this many cores kept busy by others, a missed target is marked: it says little.
BUSY_CORES = 0.25


def _verdict(value: float, target: str, others: float) -> str:
    if not target:
        return ""
    relation, limit = target.split()
    met = value >= float(limit) if relation == ">=" else value <= float(limit)
    return "met" if met else "MISSED*" if others > BUSY_CORES else "MISSED"


def _text(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".strip()


def print_report(found: dict) -> None:
    print()
    for name, value in found["machine"].items():
        print(f"{name:10} {value}")
    print(f"{'command':10} {found['command']}\n")
    print(f"{'':44} {'measured':>12}  {'spread':17} {'target':9} {'':8} others")
    for scenario, text, figure, unit, target in ROWS:
        runs = found["runs"].get(scenario)
        if not runs:
            continue
        values = [figure(run) for run in runs]
        value = statistics.median(values)
        spread = f"{_text(min(values), '')} … {_text(max(values), '')}" if len(values) > 1 else ""
        others = statistics.median(run["other_cores"] for run in runs)
        verdict = _verdict(value, target, others)
        print(f"{text:44} {_text(value, unit):>12}  {spread:17} {target:9} {verdict:8} {others:.1f} cores")
    for name, error in found["failed"].items():
        print(f"FAILED {name}: {error.splitlines()[0]}")
    print(f"\n* while others kept more than {BUSY_CORES} cores busy: repeat on a quiet machine; CPU figures rise too, by a fifth or more.\n")
