#!/usr/bin/env python3
"""A consumer of cdp's changes, with psycopg 3.

    SELECT cdp.subscribe('mailer', '{"segment": "warm_leads"}');
    python3 consumer.py mailer                  # connects by PGHOST, PGDATABASE, ...

NOTIFY wakes it, cdp.poll() says what has happened: what was missed while it was
away, or while the server was, is there when it comes back.  Each change is
printed as one line of JSON; put your own work into handle().  A change may come
twice (a crash between work and acknowledgement): (epoch, seq) tells.
"""
import json
import random
import select
import signal
import sys
import time

import psycopg

BATCH = 100
LOOK_EVERY = 30.0       # seconds without a notification


def handle(change):
    print(json.dumps(change), flush=True)


def drain(conn, name):
    """Work off what there is; True when something has to be tried again."""
    while True:
        rows = conn.execute(
            "SELECT epoch, seq, kind, segment, profile_id, cause, payload"
            " FROM cdp.poll(%s, %s)", (name, BATCH)).fetchall()
        if not rows:
            return False
        done = None
        for row in rows:
            change = dict(zip(("epoch", "seq", "kind", "segment", "profile_id",
                               "cause", "payload"), row))
            try:
                handle(change)
            except Exception as error:
                if done:
                    conn.execute("SELECT cdp.ack(%s, %s::bigint, %s)",
                                 (name, done["seq"], done["epoch"]))
                conn.execute("SELECT cdp.nack(%s, %s::bigint, %s, epoch => %s)",
                             (name, change["seq"], str(error), change["epoch"]))
                return True
            done = change
        conn.execute("SELECT cdp.ack(%s, %s::bigint, %s)",
                     (name, done["seq"], done["epoch"]))


def consume(conninfo, name):
    # text is UTF-8 whatever the database's encoding: it comes as str, not bytes
    with psycopg.connect(conninfo, autocommit=True,
                         client_encoding="utf8") as conn:
        # first listen, then look: nothing falls in between
        conn.execute("LISTEN cdp")
        while True:
            again = drain(conn, name)
            select.select([conn.fileno()], [], [], 1.0 if again else LOOK_EVERY)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: consumer.py subscription [conninfo]")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pause = 0.1
    while True:
        started = time.monotonic()
        try:
            consume(sys.argv[2] if len(sys.argv) > 2 else "", sys.argv[1])
        except psycopg.errors.UndefinedObject as error:
            sys.exit(f"consumer.py: {error}")
        except psycopg.OperationalError as error:
            print(f"consumer.py: {error}", file=sys.stderr, flush=True)
        pause = 0.1 if time.monotonic() - started > 60 else min(pause * 2, 30.0)
        time.sleep(pause * random.uniform(0.5, 1.0))


if __name__ == "__main__":
    main()
