/*-------------------------------------------------------------------------
 *
 * domain_change.c
 *	  History under changed settings of which domains mean accounts, a step at a
 *	  time.
 *
 *	  Who says that addresses of e-mail mean accounts, or of which domains, finds
 *	  either few entries, and history follows in the same transaction, or leaves
 *	  a row in cdp.backfills.  Then the applier goes over the nodes by number,
 *	  beside what comes.  A node that it has reached is a member by the settings
 *	  as they are; of one that it has not, cdp.account_nodes.by_domain tells what
 *	  its domain meant so far, so nobody has to know what the settings were, and
 *	  a change on top of another just begins anew.  Nodes that come meanwhile
 *	  have greater numbers than all that are gone over, and go by the settings.
 *
 *	  A step is a batch of its own: the profiles of the addresses that mean
 *	  another account are touched as if they had news, CdpDomainsExchange says
 *	  the new account, and what follows from that is what follows from evidence
 *	  that comes late.
 *
 * IDENTIFICATION
 *	  src/apply/domain_change.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "apply/accounts.h"
#include "cdp.h"
#include "statement.h"

/* Most nodes that a step looks at at a time, and before it lets others go on. */
#define MAX_NODES 10000
#define MAX_LOOKED_AT 1000000

static CdpStatement load_change = {
	"SELECT b.position, (b.definition->>'upto')::bigint FROM cdp.backfills b"
	" WHERE b.kind = 'domains'",
	{ NULL },
	"backfills"
};

static CdpStatement ask_change = {
	"INSERT INTO cdp.backfills AS b (kind, id, fresh, definition)"
	" VALUES ('domains', 0, false, jsonb_build_object('upto', $1 - 1))"
	" ON CONFLICT (kind, id) DO UPDATE SET position = 0, done = 0,"
	" definition = excluded.definition, requested_at = excluded.requested_at,"
	" requested_by = excluded.requested_by, started_at = NULL",
	{ "int8" }
};

static CdpStatement move_change = {
	"UPDATE cdp.backfills b SET position = $1, done = $1,"
	" started_at = coalesce(b.started_at, clock_timestamp()) WHERE b.kind = 'domains'",
	{ "int8" }
};

static CdpStatement finish_change = {
	"DELETE FROM cdp.backfills b WHERE b.kind = 'domains'",
	{ NULL },
	"backfills"
};

/*
 * From a node to its account, never the other way round: planned while there are
 * few accounts, a join would read all of them for each step from then on.
 */
#define BY_DOMAIN(node) \
	" (SELECT m.account_id FROM cdp.account_nodes m WHERE m.node_id = " node \
	" AND m.by_domain OFFSET 0)"

static CdpStatement next_nodes = {
	"SELECT i.node_id, i.identifier, i.profile_id, i.first_seen, i.last_seen, n.account_id,"
	" (SELECT a.identifier FROM cdp.account_identities a WHERE a.account_id = n.account_id)"
	" FROM (SELECT j.* FROM cdp.identities j WHERE j.node_id > $1 AND j.node_id <= $2"
	" ORDER BY j.node_id LIMIT $3) AS i LEFT JOIN LATERAL" BY_DOMAIN("i.node_id") " n ON true"
	" ORDER BY i.node_id",
	{ "int8", "int8", "int8" }
};

/* what the domains of addresses meant so far, of which the nodes are not reached */
static CdpStatement accounts_so_far = {
	"SELECT u.address, (SELECT a.identifier FROM cdp.account_identities a"
	" WHERE a.account_id = n.account_id)"
	" FROM (SELECT unnest($1)::cdp.identifier AS address) AS u"
	" CROSS JOIN LATERAL (SELECT i.node_id FROM cdp.identities i"
	" WHERE i.identifier = u.address OFFSET 0) AS i"
	" LEFT JOIN LATERAL" BY_DOMAIN("i.node_id") " n ON true"
	" WHERE i.node_id > $2 AND i.node_id <= $3",
	{ "text[]", "int8", "int8" }
};

/* What the domain of an address has meant so far. */
typedef struct SoFar
{
	CdpIdentifier *address; /* hash key, compared by contents */
	bool reached; /* by the change: the settings say what it means */
	CdpIdentifier *account; /* NULL: none */
} SoFar;

/* An address whose domain means another account than so far. */
typedef struct Exchange
{
	int64 node;
	int64 profile;
	TimestampTz first_seen;
	TimestampTz last_seen;
	int64 from; /* 0: none */
	CdpIdentifier *to; /* NULL: none */
} Exchange;

bool
CdpDomainsChanging(CdpDomainChange *change)
{
	/* who asks may be reading rows */
	SPITupleTable *tuptable = SPI_tuptable;
	uint64 processed = SPI_processed;
	bool found = CdpRunHere(&load_change, NULL, NULL) > 0;

	change->position = found ? CdpCellInt8(0, 1) : PG_INT64_MAX;
	change->upto = found ? CdpCellInt8(0, 2) : 0;
	SPI_freetuptable(SPI_tuptable);
	SPI_tuptable = tuptable;
	SPI_processed = processed;
	return found;
}

void
CdpDomainsAsk(int64 next_node)
{
	Datum arg = Int64GetDatum(next_node);

	CdpRun(&ask_change, &arg, NULL);
	CdpWakeAtCommit();
}

void
CdpDomainsFinish(void)
{
	CdpRun(&finish_change, NULL, NULL);
}

HTAB *
CdpDomainsSoFar(const CdpDomainChange *change, CdpIdentifier **addresses, int n)
{
	SPITupleTable *tuptable = SPI_tuptable; /* as above */
	uint64 processed = SPI_processed;
	HTAB *table = CdpVarlenaTable(CurrentMemoryContext, "cdp domains so far", sizeof(SoFar), n);
	Datum *wanted = palloc(sizeof(Datum) * Max(n, 1));
	Datum args[3];
	int nwanted = 0;

	for (int i = 0; i < n; i++)
	{
		bool found;
		SoFar *sofar = hash_search(table, &addresses[i], HASH_ENTER, &found);

		if (found)
			continue;
		sofar->reached = true;
		sofar->account = NULL;
		wanted[nwanted++] = PointerGetDatum(addresses[i]);
	}
	if (nwanted == 0)
		return table;
	args[0] = CdpVarlenaArray(wanted, NULL, nwanted, TEXTOID);
	args[1] = Int64GetDatum(change->position);
	args[2] = Int64GetDatum(change->upto);
	CdpRunHere(&accounts_so_far, args, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		CdpIdentifier *address = CdpCellVarlena(r, 1, CurrentMemoryContext);
		SoFar *sofar = hash_search(table, &address, HASH_FIND, NULL);

		sofar->reached = false;
		sofar->account = CdpCellVarlena(r, 2, CurrentMemoryContext);
	}
	SPI_freetuptable(SPI_tuptable);
	SPI_tuptable = tuptable;
	SPI_processed = processed;
	pfree(wanted);
	return table;
}

CdpIdentifier *
CdpDomainAccountNow(CdpKindSet *kinds, int64 generation, const CdpDomainChange *change,
					HTAB *known, CdpIdentifier *address)
{
	SoFar *sofar = NULL;

	if (change->position >= change->upto)
		return CdpDomainAccount(kinds, generation, address);
	if (known != NULL)
		sofar = hash_search(known, &address, HASH_FIND, NULL);
	if (sofar == NULL)
	{
		known = CdpDomainsSoFar(change, &address, 1);
		sofar = hash_search(known, &address, HASH_FIND, NULL);
	}
	return sofar->reached ? CdpDomainAccount(kinds, generation, address) : sofar->account;
}

static bool
is_email(CdpKindSet *kinds, const CdpIdentifier *identifier)
{
	CdpKind *kind = CdpKindLookup(kinds, VARDATA_ANY(identifier),
								  CdpIdentifierKindLength(identifier));

	return kind != NULL && kind->email;
}

/*
 * Of the rows of next_nodes, those whose domain means another account.
 */
static List *
read_nodes(CdpBatch *batch, CdpKindSet *kinds, int64 *last)
{
	List *exchanges = NIL;

	for (uint64 r = 0; r < SPI_processed; r++)
	{
		CdpIdentifier *address = CdpCellVarlena(r, 2, CurrentMemoryContext);
		CdpIdentifier *before = CdpCellVarlena(r, 7, CurrentMemoryContext);
		CdpIdentifier *after = NULL;
		Exchange *exchange;
		bool isnull;

		*last = CdpCellInt8(r, 1);
		if (is_email(kinds, address))
			after = CdpDomainAccount(kinds, batch->applier.generation, address);
		if (before == NULL ? after == NULL :
							 after != NULL && CdpVarlenaMatch(&before, &after, 0) == 0)
			continue;
		exchange = palloc(sizeof(Exchange));
		exchange->node = *last;
		exchange->profile = CdpCellInt8(r, 3);
		exchange->first_seen = CdpCellInt8(r, 4);
		exchange->last_seen = CdpCellInt8(r, 5);
		exchange->from = DatumGetInt64(CdpCell(r, 6, &isnull));
		if (isnull)
			exchange->from = 0;
		exchange->to = after;
		exchanges = lappend(exchanges, exchange);
	}
	SPI_freetuptable(SPI_tuptable);
	return exchanges;
}

int
CdpDomainsStep(CdpBatch *batch, int max, int64 **profiles)
{
	CdpKindSet *kinds = CdpKindSetGet(batch->applier.generation);
	double entries_per_node = Max(1, batch->applier.entries / (double) batch->applier.next_node);
	CdpDomainChange change;
	ListCell *lc;
	int64 done = 0;
	int limit;
	int nread;
	int n = 0;

	if (!CdpDomainsChanging(&change))
		return 0;
	if (cdp_backfill_rate > 0)
		max = Min(max, cdp_backfill_rate);
	limit = (int) Max(1, Min(MAX_NODES, max / entries_per_node));
	do
	{
		int64 last = change.position;
		Datum args[3];

		CHECK_FOR_INTERRUPTS();
		args[0] = Int64GetDatum(change.position);
		args[1] = Int64GetDatum(change.upto);
		args[2] = Int64GetDatum(limit);
		nread = (int) CdpRunHere(&next_nodes, args, NULL);
		batch->exchanges = read_nodes(batch, kinds, &last);
		change.position = nread == limit ? last : change.upto;
		done += nread;
	} while (batch->exchanges == NIL && nread == limit && done < MAX_LOOKED_AT &&
			 (cdp_backfill_rate == 0 || done < cdp_backfill_rate));

	if (change.position < change.upto)
	{
		Datum arg = Int64GetDatum(change.position);

		CdpRun(&move_change, &arg, NULL);
	}
	else
		CdpDomainsFinish();
	CdpBackfillDone(done);
	*profiles = palloc(sizeof(int64) * Max(list_length(batch->exchanges), 1));
	foreach(lc, batch->exchanges)
		(*profiles)[n++] = ((Exchange *) lfirst(lc))->profile;
	return n > 0 ? n : -1;
}

void
CdpDomainsExchange(CdpAccountSet *set)
{
	int n = list_length(set->batch->exchanges);
	CdpNaming *namings = palloc(sizeof(CdpNaming) * 2 * n);
	CdpEntry *seen = palloc0(sizeof(CdpEntry) * 2 * n);
	int64 *profiles = palloc(sizeof(int64) * n);
	TimestampTz *since = palloc(sizeof(TimestampTz) * n);
	int64 *from[2] = { palloc(sizeof(int64) * n), palloc(sizeof(int64) * n) };
	int64 *to[2] = { palloc(sizeof(int64) * n), palloc(sizeof(int64) * n) };
	int nfrom = 0;
	int nto = 0;
	ListCell *lc;

	foreach(lc, set->batch->exchanges)
	{
		Exchange *exchange = lfirst(lc);
		int i = foreach_current_index(lc);

		profiles[i] = exchange->profile;
		since[i] = exchange->first_seen;
		if (exchange->from != 0)
		{
			from[0][nfrom] = exchange->from;
			from[1][nfrom++] = exchange->node;
		}
		for (int j = 0; j < 2 && exchange->to != NULL; j++)
		{
			CdpEntry *entry = &seen[2 * nto + j];

			/* stands for an entry that names the account */
			entry->accounts = &exchange->to;
			entry->naccounts = 1;
			entry->at = j == 0 ? exchange->first_seen : exchange->last_seen;
			namings[2 * nto + j].entry = entry;
			namings[2 * nto + j].gone = false;
		}
		if (exchange->to != NULL)
			to[1][nto++] = exchange->node;
	}
	CdpAccountsFind(set, namings, 2 * nto);
	for (int i = 0; i < nto; i++)
		to[0][i] = CdpAccountFind(set, seen[2 * i].accounts[0])->id;
	CdpAccountsLoad(set, from[0], nfrom);
	for (int i = 0; i < nfrom; i++)
		CdpAccountById(set, from[0][i])->lost = true;
	CdpDomainsWrite(from[0], from[1], nfrom, to[0], to[1], nto);
	if (set->computed)
		CdpAccountsLateDomains(set, profiles, since, n, NULL, 0);
}
