/*-------------------------------------------------------------------------
 *
 * account_asof.c
 *	  Accounts at earlier times: cdp.account_at().
 *
 *	  The entries that had happened by then and count for the account, and for
 *	  those below it, are folded into states that begin empty; so are those of
 *	  the members of that time, for what members contribute.  Who is one person
 *	  is what it is now: as everywhere with accounts.
 *
 * IDENTIFICATION
 *	  src/apply/account_asof.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "activate/activate.h"
#include "apply/accounts.h"
#include "apply/asof.h"
#include "cdp.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_account_at);

/* Entries of members that are folded at a time. */
#define CHUNK			10000

/* Members that are evaluated at a time. */
#define CHUNK_MEMBERS	256

static CdpStatement account_row = {
	"SELECT a.identifier, a.first_seen FROM cdp.account_identities a WHERE a.account_id = $1",
	{"int8"}
};

/* the account, and all below it by what group calls had said of parents */
static CdpStatement accounts_below = {
	"WITH RECURSIVE said AS MATERIALIZED (SELECT DISTINCT ON (e.account_id) e.account_id,"
	" cdp.verify_parent(jsonb_build_object('parent', p.properties->'parent'),"
	" a.identifier::text) AS parent"
	" FROM cdp.account_evidence e"
	" JOIN cdp.account_identities a ON a.account_id = e.account_id"
	" JOIN cdp.events l ON l.id = e.entry AND l.xid = e.xid AND l.received_at = e.received_at"
	" CROSS JOIN LATERAL (SELECT cdp.entry_properties(cdp.verify_properties(l), l.source, l.id)"
	" AS properties) p"
	" WHERE l.type = 'group' AND e.at <= $2 AND p.properties ? 'parent'"
	" ORDER BY e.account_id, e.at DESC, e.tie DESC),"
	" below (account_id) AS (SELECT $1 UNION SELECT s.account_id FROM below b"
	" JOIN cdp.account_identities a ON a.account_id = b.account_id"
	" JOIN said s ON s.parent = a.identifier::text)"
	" SELECT b.account_id FROM below b ORDER BY b.account_id",
	{"int8", "timestamptz"}
};

static CdpStatement bearing_nodes = {
	"SELECT DISTINCT j.node_id FROM (SELECT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_nodes n ON n.account_id = u.account_id"
	" JOIN cdp.identities i ON i.node_id = n.node_id"
	" JOIN cdp.identities j ON j.profile_id = i.profile_id",
	{"int8[]"}
};

static CdpStatement nodes_of = {
	"SELECT i.profile_id, i.node_id, i.identifier, i.first_seen"
	" FROM (SELECT unnest($1) AS profile_id) AS u"
	" JOIN cdp.identities i ON i.profile_id = u.profile_id ORDER BY i.profile_id, i.node_id",
	{"int8[]"}
};

/* What is asked, and what is known of it. */
typedef struct Question
{
	CdpBatch	batch;			/* definitions only */
	TimestampTz at;				/* DT_NOEND: all that has happened */
	TimestampTz now;			/* at which windows are looked at */
	CdpTraitSet *traits;		/* of accounts */
	int64	   *ids;			/* the account and those below it, ascending */
	CdpNodeAcc **accs;
	int			n;
	CdpMembership *members;		/* of all of them, by profile */
	int			nmembers;
	Bitmapset  *counted;		/* columns of segments whose members are counted */
	CdpMemberValue *values;		/* what members contribute */
	int			nvalues;
	int			maxvalues;
	MemoryContext context;		/* of what is here */
} Question;

static int
compare_members(const void *a, const void *b)
{
	const CdpMembership *x = a;
	const CdpMembership *y = b;

	if (x->profile_id != y->profile_id)
		return x->profile_id < y->profile_id ? -1 : 1;
	return CdpCompareInt8(&x->account_id, &y->account_id);
}

static bool
rolls_up(CdpTraitSet *traits)
{
	for (int i = 0; i < traits->ntraits; i++)
		if (traits->traits[i]->rollup)
			return true;
	return false;
}

/*
 * Those of the entries that a statement yields which had happened, into the
 * states of the accounts.
 */
static void
fold_at(Question *q, CdpStatement *statement, const int64 *ids, int n)
{
	CdpCreditScan scan = { .batch = &q->batch, .until = q->at };

	CdpCreditScanBegin(&scan, statement, ids, n);
	while (CdpCreditScanNext(&scan))
	{
		int nfound = CdpCreditsOfAccounts(scan.found, scan.nfound, q->ids, q->n);

		for (int i = 0; i < nfound; i++)
		{
			const CdpCredit *credit = &scan.found[i];
			const int64 *id = bsearch(&credit->account, q->ids, q->n, sizeof(int64), CdpCompareInt8);

			CdpNodeFold(q->accs[id - q->ids], &scan.entries[credit->entry],
						&scan.contributions[credit->entry], true);
		}
	}
	CdpCreditScanEnd(&scan);
}

static void
fold_accounts(Question *q)
{
	Datum		arg = CdpInt8Array(q->ids, q->n);
	int64	   *nodes;
	int			nnodes;

	fold_at(q, &CdpNobodysEntries, q->ids, q->n);
	nnodes = CdpRunHere(&bearing_nodes, &arg, NULL);
	nodes = palloc(sizeof(int64) * Max(nnodes, 1));
	for (int i = 0; i < nnodes; i++)
		nodes[i] = CdpCellInt8(i, 1);
	SPI_freetuptable(SPI_tuptable);
	fold_at(q, &CdpOwnedEntries, nodes, nnodes);
}

/* ---- members ---- */

/* A node's states; compared by number. */
typedef struct Place
{
	int64		node_id;
	CdpNodeAcc *acc;
} Place;

/*
 * Fold what these nodes own and had happened into their states.
 */
static void
fold_nodes(Question *q, const CdpProfileNode *nodes, CdpNodeAcc **accs, int n)
{
	CdpTraitSet *traits = q->batch.traits;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext chunk = AllocSetContextCreate(context, "cdp members as of",
												ALLOCSET_DEFAULT_SIZES);
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	Place	   *places = palloc(sizeof(Place) * Max(n, 1));
	Portal		portal;
	Datum		arg;

	for (int i = 0; i < n; i++)
	{
		ids[i] = places[i].node_id = nodes[i].node_id;
		places[i].acc = accs[i];
	}
	qsort(places, n, sizeof(Place), CdpCompareInt8);
	arg = CdpInt8Array(ids, n);
	CdpPrepare(&CdpOwnedEntries);
	portal = SPI_cursor_open(NULL, CdpOwnedEntries.plan, &arg, NULL, true);
	for (;;)
	{
		CdpEntry   *entries;
		CdpContributions *contributions;
		int			nentries = 0;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(chunk);
		SPI_cursor_fetch(portal, true, CHUNK);
		MemoryContextSwitchTo(chunk);
		if (SPI_processed == 0)
			break;
		entries = palloc(sizeof(CdpEntry) * SPI_processed);
		for (uint64 r = 0; r < SPI_processed; r++)
		{
			Datum		values[CDP_EVENTS_NATTS + 1];
			bool		isnull[CDP_EVENTS_NATTS + 1];
			CdpEntry   *entry = &entries[nentries];

			heap_deform_tuple(SPI_tuptable->vals[r], SPI_tuptable->tupdesc, values, isnull);
			CdpEntryFromRow(entry, values + 1, isnull + 1);
			if (entry->at > q->at)
				continue;
			(void) CdpEntryJudge(entry);
			entry->owner = DatumGetInt64(values[0]);
			nentries++;
		}
		SPI_freetuptable(SPI_tuptable);
		CdpEntriesReadAll(entries, nentries);
		CdpGraphReadProperties(q->batch.graph->reading, q->batch.graph->reading_arg, entries, nentries);
		contributions = palloc0(sizeof(CdpContributions) * Max(nentries, 1));
		CdpTraitsEvaluate(traits, NULL, entries, nentries, contributions);
		for (int i = 0; i < nentries; i++)
		{
			Place	   *place = bsearch(&entries[i].owner, places, n, sizeof(Place), CdpCompareInt8);

			CdpNodeFold(place->acc, &entries[i], &contributions[i], true);
		}
		MemoryContextSwitchTo(context);
		MemoryContextReset(chunk);
	}
	MemoryContextSwitchTo(context);
	SPI_cursor_close(portal);
	MemoryContextDelete(chunk);
}

/*
 * Keep what a profile contributes to an account.
 */
static void
contribute(Question *q, int64 account, const CdpProfileEval *profile)
{
	for (int t = 0; t < q->traits->ntraits; t++)
	{
		int32		member_trait = q->traits->traits[t]->member_trait;
		struct NumericData *value = member_trait == 0 ? NULL :
			CdpMemberContributes(q->batch.traits, member_trait, &profile->values,
								 profile->after, profile->nafter);
		bool		known = value == NULL;
		MemoryContext old;

		/* several traits of accounts may be over one of members */
		for (int before = 0; before < t && !known; before++)
			known = q->traits->traits[before]->member_trait == member_trait;
		if (known)
			continue;
		old = MemoryContextSwitchTo(q->context);
		if (q->nvalues == q->maxvalues)
		{
			q->maxvalues = Max(64, 2 * q->maxvalues);
			q->values = q->values == NULL ? palloc(sizeof(CdpMemberValue) * q->maxvalues)
				: repalloc_huge(q->values, sizeof(CdpMemberValue) * q->maxvalues);
		}
		q->values[q->nvalues].account = account;
		q->values[q->nvalues].member_trait = member_trait;
		q->values[q->nvalues++].value = (struct NumericData *)
			PG_DETOAST_DATUM_COPY(PointerGetDatum(value));
		MemoryContextSwitchTo(old);
	}
}

/*
 * Evaluate the profiles of these memberships as of then.
 */
static void
evaluate_members(Question *q, const CdpMembership *members, int n)
{
	int64	   *profiles = palloc(sizeof(int64) * n);
	CdpProfileNode *nodes;
	CdpNodeAcc **accs;
	int64	   *owners;
	int			nprofiles;
	int			nnodes;
	int			first = 0;
	int			next = 0;
	Datum		arg;

	for (int i = 0; i < n; i++)
		profiles[i] = members[i].profile_id;
	nprofiles = (int) qunique(profiles, n, sizeof(int64), CdpCompareInt8);
	arg = CdpInt8Array(profiles, nprofiles);
	nnodes = (int) CdpRunHere(&nodes_of, &arg, NULL);
	nodes = palloc0(sizeof(CdpProfileNode) * Max(nnodes, 1));
	accs = palloc(sizeof(CdpNodeAcc *) * Max(nnodes, 1));
	owners = palloc(sizeof(int64) * Max(nnodes, 1));
	for (int i = 0; i < nnodes; i++)
	{
		owners[i] = CdpCellInt8(i, 1);
		nodes[i].node_id = CdpCellInt8(i, 2);
		nodes[i].identifier = CdpCellVarlena(i, 3, CurrentMemoryContext);
		nodes[i].first_seen = CdpCellInt8(i, 4);
		accs[i] = CdpNodeOpen(q->batch.traits, NULL);
	}
	SPI_freetuptable(SPI_tuptable);
	fold_nodes(q, nodes, accs, nnodes);

	for (int p = 0; p < nprofiles; p++)
	{
		CdpProfileEval eval = {0};
		int			last;

		while (first < nnodes && owners[first] < profiles[p])
			first++;
		for (last = first; last < nnodes && owners[last] == profiles[p];)
			last++;
		eval.profile_id = profiles[p];
		CdpProfileEvaluate(q->batch.traits, accs + first, last - first, q->now, &eval.values);
		eval.identifiers = palloc(sizeof(CdpIdentifier *) * Max(last - first, 1));
		for (int i = first; i < last; i++)
			if (nodes[i].first_seen <= q->at)
				eval.identifiers[eval.nidentifiers++] = nodes[i].identifier;
		if (q->counted != NULL)
			CdpSegmentsEvaluateSome(q->batch.segments, &eval, 1, q->now, q->counted, false);
		for (; next < n && members[next].profile_id == profiles[p]; next++)
			contribute(q, members[next].account_id, &eval);
	}
}

static void
find_contributions(Question *q)
{
	MemoryContext chunk;
	bool		any = false;

	for (int t = 0; t < q->traits->ntraits; t++)
	{
		int32		member_trait = q->traits->traits[t]->member_trait;
		int			column = member_trait < 0 ?
			CdpSegmentColumn(q->batch.segments, -member_trait) : -1;

		any |= member_trait != 0;
		if (column >= 0)
			q->counted = bms_add_member(q->counted, column);
	}
	if (!any)
		return;
	chunk = AllocSetContextCreate(q->context, "cdp members as of", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < q->nmembers;)
	{
		int			end = Min(i + CHUNK_MEMBERS, q->nmembers);
		MemoryContext old = MemoryContextSwitchTo(chunk);

		CHECK_FOR_INTERRUPTS();
		/* all memberships of one profile at once */
		while (end < q->nmembers && q->members[end].profile_id == q->members[end - 1].profile_id)
			end++;
		evaluate_members(q, q->members + i, end - i);
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
		i = end;
	}
	MemoryContextDelete(chunk);
}

/* ---- the account ---- */

static void
begin(Question *q, TimestampTz at)
{
	TimestampTz applied;
	int64		generation = CdpApplierGlance(&applied);

	memset(q, 0, sizeof(Question));
	q->context = CurrentMemoryContext;
	q->at = at;
	q->now = TIMESTAMP_NOT_FINITE(at) ? CdpReadInstant(applied) : at;
	CdpIsolatedLoad(generation);
	q->batch.applier.generation = generation;
	q->batch.applier.clock = q->now;
	q->batch.kinds = CdpKindSetGet(generation);
	q->batch.traits = CdpTraitSetGet(generation);
	q->batch.segments = CdpSegmentSetGet(generation, q->batch.traits);
	q->batch.graph = CdpGraphBegin(q->batch.kinds, 1, 0, 0);
	q->batch.graph->sealed = true;
	q->traits = CdpAccountTraitSetGet(generation);
}

/*
 * The account as it was; NULL when nothing was known of it.
 */
static Jsonb *
account_at(Question *q, int64 id)
{
	CdpAccountRow row = {0};
	int64	   *below;
	CdpNodeAcc **below_accs;
	int			nbelow = 0;
	int			nmembers = 0;
	Datum		args[2];

	row.id = id;
	args[0] = Int64GetDatum(id);
	args[1] = TimestampTzGetDatum(q->at);
	if (CdpRunHere(&account_row, args, NULL) == 0)
		return NULL;
	row.identifier = CdpCellVarlena(0, 1, CurrentMemoryContext);
	row.first_seen = CdpCellInt8(0, 2);
	row.last_seen = DT_NOBEGIN; /* of then is not known */
	SPI_freetuptable(SPI_tuptable);
	if (row.first_seen > q->at)
		return NULL;

	if (rolls_up(q->traits))
	{
		q->n = (int) CdpRunHere(&accounts_below, args, NULL);
		q->ids = palloc(sizeof(int64) * q->n);
		for (int i = 0; i < q->n; i++)
			q->ids[i] = CdpCellInt8(i, 1);
		SPI_freetuptable(SPI_tuptable);
	}
	else
	{
		q->n = 1;
		q->ids = palloc(sizeof(int64));
		q->ids[0] = id;
	}
	q->accs = palloc(sizeof(CdpNodeAcc *) * q->n);
	below = palloc(sizeof(int64) * q->n);
	below_accs = palloc(sizeof(CdpNodeAcc *) * q->n);
	for (int i = 0; i < q->n; i++)
	{
		q->accs[i] = CdpNodeOpen(q->traits, NULL);
		if (q->ids[i] == id)
			row.acc = q->accs[i];
		else
		{
			below[nbelow] = q->ids[i];
			below_accs[nbelow++] = q->accs[i];
		}
	}
	fold_accounts(q);

	q->members = CdpMembersOfAccounts(q->ids, q->n, q->at, &q->nmembers);
	qsort(q->members, q->nmembers, sizeof(CdpMembership), compare_members);
	for (int i = 0; i < q->nmembers; i++)
		nmembers += q->members[i].account_id == id;
	find_contributions(q);

	row.parent = (struct varlena *) CdpAccountParent(q->batch.kinds, &row);
	CdpAccountValues(q->traits, &row, below, below_accs, nbelow, q->values, q->nvalues, q->now);
	return CdpAccountJson(q->batch.applier.generation, &row, q->now, nmembers);
}

static Jsonb *
read_account_at(FunctionCallInfo fcinfo)
{
	Question q;
	int64 id;

	begin(&q, PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1));
	id = CdpAccountOfIdentifier(q.batch.applier.generation, PG_GETARG_IDENTIFIER_PP(0));
	return id == 0 ? NULL : account_at(&q, id);
}

/*
 * cdp.account_at(account, at) returns jsonb: the account that cdp.account()
 * would have shown then.
 */
Datum
cdp_account_at(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	return CdpAsOfJson(fcinfo, read_account_at);
}
