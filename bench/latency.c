/*-------------------------------------------------------------------------
 *
 * latency.c
 *	  Time from COMMIT to the notification's arrival, at a given rate.
 *
 *	  latency cdp  RATE COUNT WRITERS BASE   cdp.track(), the worker, LISTEN cdp
 *	  latency bare RATE COUNT WRITERS BASE   INSERT, COMMIT, then NOTIFY
 *
 * Writers are processes that take turns by number: event k is due at
 * start + k / RATE.  The clock starts when COMMIT is sent.  One more process
 * listens.  In mode cdp every event makes one new profile a member of the
 * segment "signed_up", so that there is exactly one change an event, and a
 * notification that ends at change number s covers all up to s.  Which event
 * made which change is looked up afterwards.  User numbers begin at BASE: each
 * run needs a range that no run before it had.
 *
 * Prints "p50 p99 max lost" in milliseconds.  Connects as libpq's environment
 * says.
 *
 * IDENTIFICATION
 *	  bench/latency.c
 *
 *-------------------------------------------------------------------------
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libpq-fe.h"

typedef struct Shared
{
	volatile int ready;
	volatile int heard;			/* notifications so far */
	double		start;
} Shared;

static Shared *shared;
static double *sent;			/* by event */
static double *heard_at;		/* by notification */
static long *heard_to;			/* last change or event it covers */
static int	count;
static int	base;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static PGconn *
open_connection(void)
{
	PGconn	   *conn = PQconnectdb("");

	if (PQstatus(conn) != CONNECTION_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(conn));
		exit(1);
	}
	return conn;
}

static PGresult *
run(PGconn *conn, const char *sql)
{
	PGresult   *result = PQexec(conn, sql);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
	{
		fprintf(stderr, "%s: %s", sql, PQerrorMessage(conn));
		exit(1);
	}
	return result;
}

static void
listen_loop(const char *channel)
{
	PGconn	   *conn = open_connection();
	char		sql[64];

	snprintf(sql, sizeof(sql), "LISTEN %s", channel);
	PQclear(run(conn, sql));
	shared->ready = 1;
	for (;;)
	{
		struct pollfd fd = {PQsocket(conn), POLLIN, 0};
		PGnotify   *notify;
		double		at;

		poll(&fd, 1, -1);
		at = now();
		if (!PQconsumeInput(conn))
			exit(1);
		while ((notify = PQnotifies(conn)) != NULL)
		{
			const char *p = strstr(notify->extra, "\"to\":");
			int			n = shared->heard;

			if (p != NULL)
				p += 5;
			else if ((p = strstr(notify->extra, "\"seq\":")) != NULL)
				p += 6;
			else
				p = notify->extra;
			if (n < 2 * count)
			{
				heard_at[n] = at;
				heard_to[n] = strtol(p, NULL, 10);
				shared->heard = n + 1;
			}
			PQfreemem(notify);
		}
	}
}

static void
write_loop(int cdp, int me, int writers, double rate)
{
	PGconn	   *conn = open_connection();
	char		sql[256];

	/* Plans and caches warm, as in a server that has been up for a while. */
	PQclear(run(conn, "BEGIN"));
	PQclear(run(conn, cdp ? "SELECT cdp.track('Warm Up', user_id => 'warm')" :
				"INSERT INTO bench.plain (event, identifiers) VALUES ('Warm Up', '{user_id:warm}')"));
	PQclear(run(conn, "ROLLBACK"));
	while (shared->start == 0)
		usleep(1000);
	for (int k = me; k < count; k += writers)
	{
		double		wait = shared->start + k / rate - now();

		if (wait > 0)
			usleep((useconds_t) (wait * 1e6));
		PQclear(run(conn, "BEGIN"));
		snprintf(sql, sizeof(sql), cdp ?
				 "SELECT cdp.track('Signed Up', user_id => 'e%d')" :
				 "INSERT INTO bench.plain (event, identifiers) VALUES ('Signed Up', '{user_id:e%d}')", base + k);
		PQclear(run(conn, sql));
		sent[k] = now();
		PQclear(run(conn, "COMMIT"));
		if (!cdp)
		{
			snprintf(sql, sizeof(sql), "NOTIFY bench, '%d'", k);
			PQclear(run(conn, sql));
		}
	}
	exit(0);
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

static void *
share(size_t size)
{
	void	   *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
						 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
	{
		perror("mmap");
		exit(1);
	}
	return p;
}

int
main(int argc, char **argv)
{
	int			cdp,
				writers,
				n = 0;
	double		rate,
				deadline,
			   *latency;
	long		first = 0;
	pid_t		listener;
	PGconn	   *conn;
	PGresult   *result;

	if (argc != 6)
	{
		fprintf(stderr, "usage: latency cdp|bare RATE COUNT WRITERS BASE\n");
		return 2;
	}
	cdp = strcmp(argv[1], "cdp") == 0;
	rate = atof(argv[2]);
	count = atoi(argv[3]);
	writers = atoi(argv[4]);
	base = atoi(argv[5]);

	shared = share(sizeof(Shared));
	sent = share(sizeof(double) * count);
	heard_at = share(sizeof(double) * count * 2);
	heard_to = share(sizeof(long) * count * 2);
	latency = malloc(sizeof(double) * count);

	if (cdp)
	{
		conn = open_connection();
		result = run(conn, "SELECT coalesce(max(seq), 0) FROM cdp.changes");
		first = strtol(PQgetvalue(result, 0, 0), NULL, 10);
		PQclear(result);
		PQfinish(conn);
	}
	if ((listener = fork()) == 0)
		listen_loop(cdp ? "cdp" : "bench");
	for (int w = 0; w < writers; w++)
		if (fork() == 0)
			write_loop(cdp, w, writers, rate);
	while (!shared->ready)
		usleep(1000);
	usleep(200000);
	shared->start = now() + 0.1;
	for (int w = 0; w < writers; w++)
	{
		int			status;

		if (waitpid(-1, &status, 0) == listener || status != 0)
		{
			kill(listener, SIGKILL);
			return 1;
		}
	}
	/* Wait for the last notification, five seconds at most. */
	deadline = now() + 5;
	while (now() < deadline)
	{
		int			h = shared->heard;

		if (cdp ? (h > 0 && heard_to[h - 1] >= first + count) : h >= count)
			break;
		usleep(10000);
	}
	kill(listener, SIGKILL);
	waitpid(listener, NULL, 0);

	if (cdp)
	{
		char		sql[512];
		int			h = 0;

		conn = open_connection();
		snprintf(sql, sizeof(sql),
				 "SELECT c.seq, substr(i.identifier::text, 10) FROM cdp.changes c"
				 " JOIN cdp.identities i USING (profile_id)"
				 " WHERE c.seq > %ld AND c.kind = 'segment_entered' ORDER BY c.seq", first);
		result = run(conn, sql);
		for (int r = 0; r < PQntuples(result); r++)
		{
			long		seq = strtol(PQgetvalue(result, r, 0), NULL, 10);
			int			k = atoi(PQgetvalue(result, r, 1)) - base;

			while (h < shared->heard && heard_to[h] < seq)
				h++;
			if (h < shared->heard && k >= 0 && k < count)
				latency[n++] = (heard_at[h] - sent[k]) * 1000;
		}
		PQclear(result);
		PQfinish(conn);
	}
	else
	{
		for (int h = 0; h < shared->heard; h++)
			if (heard_to[h] >= 0 && heard_to[h] < count && n < count)
				latency[n++] = (heard_at[h] - sent[heard_to[h]]) * 1000;
	}
	if (n == 0)
	{
		fprintf(stderr, "no notification arrived\n");
		return 1;
	}
	qsort(latency, n, sizeof(double), compare);
	printf("%.3f %.3f %.3f %d\n", latency[n / 2], latency[(int) (n * 0.99)],
		   latency[n - 1], count - n);
	return 0;
}
