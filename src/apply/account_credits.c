/*-------------------------------------------------------------------------
 *
 * account_credits.c
 *	  For which accounts entries count.
 *
 *	  An entry counts for the accounts that it names; one that names none, for
 *	  those that its owner's profile, as it is known now, was a member of then.
 *
 * IDENTIFICATION
 *	  src/apply/account_credits.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "apply/accounts.h"
#include "cdp.h"
#include "statement.h"

/* Entries that are read at a time. */
#define CHUNK 10000

/* the accounts that owners of unnamed entries were members of then */
static CdpStatement credits = {
	"SELECT u.i, y.account_id FROM (SELECT unnest($1) AS i, unnest($2) AS node_id,"
	" unnest($3) AS at) AS u"
	" JOIN cdp.identities o ON o.node_id = u.node_id"
	" CROSS JOIN LATERAL " CDP_MEMBERSHIPS("o.profile_id", "u.at") " y",
	{ "int8[]", "int8[]", "timestamptz[]" }
};

/* what is said of accounts by now, also that there is nothing */
static CdpStatement standings = {
	"SELECT u.node_id, w.account_id, w.at, " CDP_SAID_MEMBER("w")
	" FROM (SELECT unnest($1) AS node_id) AS u"
	" JOIN cdp.identities o ON o.node_id = u.node_id"
	" CROSS JOIN LATERAL " CDP_SAID("o.profile_id", "'infinity'") " w",
	{ "int8[]" }
};

CdpStatement CdpOwnedEntries = {
	"SELECT u.owner, " CDP_EVENTS_COLUMNS
	" FROM (SELECT unnest($1) AS owner) AS u"
	" CROSS JOIN LATERAL cdp.entries_of(u.owner) n"
	" JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry"
	" AND e.received_at = n.received_at",
	{ "int8[]" }
};

CdpStatement CdpNobodysEntries = {
	"SELECT 0::bigint, " CDP_EVENTS_COLUMNS
	" FROM (SELECT DISTINCT v.entry, v.xid, v.received_at"
	" FROM (SELECT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_evidence v ON v.node_id = 0 AND v.account_id = u.account_id) n"
	" JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry"
	" AND e.received_at = n.received_at",
	{ "int8[]" }
};

void
CdpStandingsForget(CdpAccountSet *set)
{
	if (set->standings != NULL)
		hash_destroy(set->standings);
	set->standings = NULL;
}

CdpStanding *
CdpStandingOf(CdpAccountSet *set, int64 node)
{
	return hash_search(set->standings, &node, HASH_FIND, NULL);
}

void
CdpStandingsAsk(CdpAccountSet *set, const int64 *nodes, int n)
{
	int64 *asked = palloc(sizeof(int64) * Max(n, 1));
	int nasked = 0;
	Datum arg;

	if (set->standings == NULL)
	{
		HASHCTL ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(int64);
		ctl.entrysize = sizeof(CdpStanding);
		ctl.hcxt = set->context;
		set->standings = hash_create("cdp standings", 256, &ctl,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	for (int i = 0; i < n; i++)
	{
		bool found;
		CdpStanding *standing = hash_search(set->standings, &nodes[i], HASH_ENTER, &found);

		if (found)
			continue;
		standing->since = DT_NOBEGIN;
		standing->n = 0;
		standing->accounts = NULL;
		asked[nasked++] = nodes[i];
	}
	if (nasked > 0)
	{
		arg = CdpInt8Array(asked, nasked);
		CdpRunHere(&standings, &arg, NULL);
		for (uint64 r = 0; r < SPI_processed; r++)
		{
			bool isnull;
			CdpStanding *standing = CdpStandingOf(set, CdpCellInt8(r, 1));

			standing->since = Max(standing->since, CdpCellInt8(r, 3));
			if (!DatumGetBool(CdpCell(r, 4, &isnull)))
				continue;
			/* most have one */
			if (standing->accounts == NULL)
				standing->accounts = MemoryContextAlloc(set->context, sizeof(int64));
			else
				standing->accounts = repalloc(standing->accounts,
											  sizeof(int64) * (standing->n + 1));
			standing->accounts[standing->n++] = CdpCellInt8(r, 2);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	pfree(asked);
}

/*
 * For which accounts do these entries count?  Those that contribute nothing
 * are passed over.  Most are later than all that is said of who belongs where,
 * and the others are asked about one by one.
 */
CdpCredit *
CdpCreditsFind(CdpAccountSet *set, CdpEntry *entries, int n,
			   const CdpContributions *contributions, int *ncredits)
{
	int64 *places = palloc(sizeof(int64) * Max(n, 1));
	int64 *nodes = palloc(sizeof(int64) * Max(n, 1));
	TimestampTz *ats = palloc(sizeof(TimestampTz) * Max(n, 1));
	CdpStanding **known = palloc0(sizeof(CdpStanding *) * Max(n, 1));
	CdpCredit *result;
	int nowners = 0;
	int nasked = 0;
	int max = 0;
	Datum args[3];

	*ncredits = 0;
	for (int i = 0; i < n; i++)
	{
		max += entries[i].naccounts;
		if (entries[i].naccounts == 0 && entries[i].owner > 0 && contributions[i].n > 0)
		{
			places[nowners] = i;
			nodes[nowners++] = entries[i].owner;
		}
	}
	if (nowners > 0)
		CdpStandingsAsk(set, nodes, nowners);
	for (int j = 0; j < nowners; j++)
	{
		int i = (int) places[j];
		CdpStanding *standing = CdpStandingOf(set, entries[i].owner);

		if (entries[i].at >= standing->since)
		{
			known[i] = standing;
			max += standing->n;
			continue;
		}
		places[nasked] = i;
		nodes[nasked] = entries[i].owner;
		ats[nasked++] = entries[i].at;
	}
	if (nasked > 0)
	{
		args[0] = CdpInt8Array(places, nasked);
		args[1] = CdpInt8Array(nodes, nasked);
		args[2] = CdpTimestampArray(ats, nasked);
		max += CdpRunHere(&credits, args, NULL);
	}
	result = palloc(sizeof(CdpCredit) * Max(max, 1));
	if (nasked > 0)
	{
		for (uint64 r = 0; r < SPI_processed; r++)
		{
			result[*ncredits].entry = CdpCellInt8(r, 1);
			result[(*ncredits)++].account = CdpCellInt8(r, 2);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; known[i] != NULL && j < known[i]->n; j++)
		{
			result[*ncredits].entry = i;
			result[(*ncredits)++].account = known[i]->accounts[j];
		}
		for (int j = 0; j < entries[i].naccounts; j++)
		{
			CdpAccount *account = CdpAccountFind(set, entries[i].accounts[j]);

			if (account == NULL ||
				(contributions[i].n == 0 && entries[i].type != CDP_ENTRY_GROUP))
				continue;
			result[*ncredits].entry = i;
			result[(*ncredits)++].account = account->id;
		}
	}
	return result;
}

/*
 * Of what entries count for, only these accounts, which are in order: an entry
 * that is nobody's may name others, too, whose state stands.
 */
int
CdpCreditsOfAccounts(CdpCredit *found, int nfound, const int64 *accounts, int naccounts)
{
	int n = 0;

	for (int i = 0; i < nfound; i++)
		if (bsearch(&found[i].account, accounts, naccounts, sizeof(int64), CdpCompareInt8) != NULL)
			found[n++] = found[i];
	return n;
}

/* What is declared has been folded. */
int
CdpCreditsContributing(CdpCredit *found, int nfound, const CdpContributions *contributions)
{
	int n = 0;

	for (int i = 0; i < nfound; i++)
		if (contributions[found[i].entry].n > 0)
			found[n++] = found[i];
	return n;
}

/*
 * The entries that have been fetched, with the accounts that they name.
 */
static CdpEntry *
read_entries(CdpAccountSet *set, int *n)
{
	CdpEntry *entries = palloc(sizeof(CdpEntry) * SPI_processed);
	CdpNaming *namings = palloc(sizeof(CdpNaming) * SPI_processed);

	*n = (int) SPI_processed;
	for (int i = 0; i < *n; i++)
	{
		Datum values[CDP_EVENTS_NATTS + 1];
		bool isnull[CDP_EVENTS_NATTS + 1];
		int64 owner;

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, isnull);
		CdpEntryFromRow(&entries[i], values + 1, isnull + 1);
		owner = DatumGetInt64(values[0]);
		(void) CdpEntryJudge(&entries[i]);
		CdpGraphCheck(set->batch->graph, &entries[i], 1);
		entries[i].owner = owner == 0 ? -1 : owner;
		namings[i].entry = &entries[i];
		namings[i].gone = true;
	}
	SPI_freetuptable(SPI_tuptable);
	CdpEntriesReadAll(entries, *n);
	CdpAccountsFind(set, namings, *n);
	return entries;
}

/*
 * While traits are built, whether an entry that is nobody's counts for them
 * depends on the account: one entry for each of them.
 */
CdpEntry *
CdpNobodysPart(CdpAccountSet *set, CdpEntry *entries, int *n)
{
	CdpEntry *parts;
	int max = 0;
	int nparts = 0;

	if (set->traits->nbuilding == 0)
		return entries;
	for (int i = 0; i < *n; i++)
		max += entries[i].owner < 0 ? entries[i].naccounts : 1;
	parts = palloc(sizeof(CdpEntry) * Max(max, 1));
	for (int i = 0; i < *n; i++)
	{
		if (entries[i].owner >= 0)
		{
			parts[nparts++] = entries[i];
			continue;
		}
		for (int j = 0; j < entries[i].naccounts; j++)
		{
			CdpAccount *account = CdpAccountFind(set, entries[i].accounts[j]);

			if (account == NULL)
				continue;
			parts[nparts] = entries[i];
			parts[nparts].accounts = entries[i].accounts + j;
			parts[nparts].naccounts = 1;
			parts[nparts++].owner = CDP_NOBODYS_OWNER(account->id);
		}
	}
	*n = nparts;
	return parts;
}

void
CdpCreditScanBegin(CdpCreditScan *scan, CdpStatement *statement, const int64 *ids, int n)
{
	Datum arg = CdpInt8Array(ids, n);

	scan->statement = statement;
	scan->ids = ids;
	scan->nids = n;
	scan->context = CurrentMemoryContext;
	scan->chunk = AllocSetContextCreate(scan->context, "cdp entries of accounts",
										ALLOCSET_DEFAULT_SIZES);
	CdpPrepare(statement);
	scan->portal = SPI_cursor_open(NULL, statement->plan, &arg, NULL, false);
	MemoryContextSwitchTo(scan->context);
}

bool
CdpCreditScanNext(CdpCreditScan *scan)
{
	CdpEntry *entries;
	int n;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(scan->chunk);
	MemoryContextSwitchTo(scan->chunk);
	if (CdpFetchHere(scan->portal, CHUNK) == 0)
		return false;
	if (scan->shared == NULL)
		scan->set = CdpAccountSetMake(scan->batch);
	else
		scan->set = scan->shared;
	entries = read_entries(scan->set, &n);
	scan->total += n;
	entries = CdpNobodysPart(scan->set, entries, &n);
	scan->entries = entries;
	scan->contributions = palloc0(sizeof(CdpContributions) * Max(n, 1));
	CdpTraitsEvaluate(scan->set->traits, scan->only, entries, n, scan->contributions);
	scan->found = CdpCreditsFind(scan->set, entries, n, scan->contributions, &scan->nfound);
	if (scan->statement == &CdpNobodysEntries)
		scan->nfound = CdpCreditsOfAccounts(scan->found, scan->nfound, scan->ids, scan->nids);
	return true;
}

void
CdpCreditScanEnd(CdpCreditScan *scan)
{
	MemoryContextSwitchTo(scan->context);
	SPI_cursor_close(scan->portal);
	MemoryContextDelete(scan->chunk);
}
