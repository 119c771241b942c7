/*-------------------------------------------------------------------------
 *
 * account_late.c
 *	  Whose entries count for other accounts than before.
 *
 *	  Evidence that comes late or goes, merges and splits change who was a member
 *	  when.  Here it is found out which nodes have entries that this may matter
 *	  to; account_fold.c folds them anew.
 *
 * IDENTIFICATION
 *	  src/apply/account_late.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/qunique.h"
#include "miscadmin.h"

#include "apply/accounts.h"
#include "cdp.h"
#include "statement.h"

/*
 * Nodes whose entries may count for another account because of this evidence:
 * of the profiles of its owners, when it says other than what was known of
 * that instant.  The first that says anything of an account ends what the
 * domain of an address says.
 */
static CdpStatement late_nodes = {
	"SELECT j.node_id, j.last_seen, u.at"
	" FROM (SELECT unnest($1) AS node_id, unnest($2) AS account_id, unnest($3) AS at,"
	" unnest($4) AS tie, unnest($5) AS leaves) AS u"
	" JOIN cdp.identities o ON o.node_id = u.node_id"
	" JOIN cdp.identities j ON j.profile_id = o.profile_id"
	" WHERE j.last_seen >= u.at"
	" AND COALESCE(u.leaves <> (SELECT x.leaves FROM cdp.identities i"
	" CROSS JOIN LATERAL (SELECT e.at, e.tie, e.leaves FROM cdp.account_evidence e"
	" WHERE e.node_id = i.node_id AND e.account_id = u.account_id"
	" AND (e.at, e.tie) <= (u.at, u.tie)"
	" ORDER BY e.at DESC, e.tie DESC LIMIT 1) x"
	" WHERE i.profile_id = o.profile_id ORDER BY x.at DESC, x.tie DESC LIMIT 1),"
	" NOT u.leaves OR EXISTS (SELECT FROM cdp.identities i"
	" JOIN cdp.account_nodes n ON n.node_id = i.node_id"
	" WHERE i.profile_id = o.profile_id AND n.account_id = u.account_id AND n.by_domain))",
	{ "int8[]", "int8[]", "timestamptz[]", "text[]", "bool[]" }
};

/* nodes that may have entries from these instants on */
static CdpStatement later_nodes = {
	"SELECT j.node_id, j.last_seen, u.at"
	" FROM (SELECT unnest($1) AS profile_id, unnest($2) AS at) AS u"
	" JOIN cdp.identities j ON j.profile_id = u.profile_id WHERE j.last_seen >= u.at",
	{ "int8[]", "timestamptz[]" }
};

/* the nodes of profiles, and which of them have evidence */
static CdpStatement bearing_nodes = {
	"SELECT i.node_id, i.profile_id, i.last_seen,"
	" EXISTS (SELECT FROM cdp.account_evidence e WHERE e.node_id = i.node_id)"
	" OR EXISTS (SELECT FROM cdp.account_nodes n WHERE n.node_id = i.node_id AND n.by_domain)"
	" FROM (SELECT unnest($1) AS profile_id) AS u"
	" JOIN cdp.identities i ON i.profile_id = u.profile_id ORDER BY i.node_id",
	{ "int8[]" }
};

static void
refold_node(CdpAccountSet *set, int64 node, TimestampTz last_seen, TimestampTz at)
{
	CdpNode *known = CdpGraphNode(set->batch->graph, node);

	/* what the batch itself brings is folded by what is known now */
	if (known != NULL && known->batch == set->batch->graph->batch)
		last_seen = known->disk_last_seen;
	if (last_seen >= at && last_seen != DT_NOBEGIN)
		(void) hash_search(set->refold, &node, HASH_ENTER, NULL);
}

/*
 * Rows of late_nodes, later_nodes.
 */
static void
refold_rows(CdpAccountSet *set)
{
	for (uint64 r = 0; r < SPI_processed; r++)
		refold_node(set, CdpCellInt8(r, 1), CdpCellInt8(r, 2), CdpCellInt8(r, 3));
	SPI_freetuptable(SPI_tuptable);
}

/*
 * All nodes of profiles; of those at odd places also those that are elsewhere
 * now.
 */
static void
refold_profiles(CdpAccountSet *set, const int64 *profiles, int nprofiles)
{
	CdpGraph *graph = set->batch->graph;
	int64 *before;
	int n = nprofiles / 2;
	Datum arg;

	if (nprofiles == 0)
		return;
	arg = CdpInt8Array(profiles, nprofiles);
	CdpRunHere(&bearing_nodes, &arg, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
		refold_node(set, CdpCellInt8(r, 1), CdpCellInt8(r, 3), DT_NOBEGIN);
	SPI_freetuptable(SPI_tuptable);

	before = palloc(sizeof(int64) * n);
	for (int i = 0; i < n; i++)
		before[i] = profiles[2 * i + 1];
	qsort(before, n, sizeof(int64), CdpCompareInt8);
	for (int i = 0; i < graph->nactive; i++)
	{
		CdpNode *node = graph->active[i];

		if (!node->is_gone && node->old_profile != 0 &&
			bsearch(&node->old_profile, before, n, sizeof(int64), CdpCompareInt8) != NULL)
			refold_node(set, node->id, node->disk_last_seen, DT_NOBEGIN);
	}
	pfree(before);
}

/*
 * Evidence comes, or goes, that changes who was a member: the entries of those
 * nodes are to be folded anew that have some from then on.  Evidence that goes
 * is no more there, that which comes is not yet.
 */
void
CdpAccountsLate(CdpAccountSet *set, CdpNaming *namings, int n)
{
	CdpGraph *graph = set->batch->graph;
	int max = 1;
	int rows = 0;
	int64 *nodes;
	int64 *accounts;
	TimestampTz *ats;
	Datum *ties;
	bool *leaves;
	int64 *profiles;
	int nprofiles = 0;
	Datum args[5];

	for (int i = 0; i < n; i++)
		max += namings[i].entry->naccounts;
	nodes = palloc(sizeof(int64) * max);
	accounts = palloc(sizeof(int64) * max);
	ats = palloc(sizeof(TimestampTz) * max);
	ties = palloc(sizeof(Datum) * max);
	leaves = palloc(sizeof(bool) * max);
	profiles = palloc(sizeof(int64) * 2 * (n + 1));
	for (int i = 0; i < n; i++)
	{
		CdpEntry *entry = namings[i].entry;

		if (entry->owner == 0)
			continue;
		if (namings[i].gone)
		{
			/* rare: all of the profile, and where its node was before */
			CdpNode *node = CdpGraphNode(graph, entry->owner);

			profiles[nprofiles++] = node->profile;
			profiles[nprofiles++] = node->old_profile;
			continue;
		}
		for (int j = 0; j < entry->naccounts; j++)
		{
			CdpAccount *account = CdpAccountFind(set, entry->accounts[j]);

			nodes[rows] = entry->owner;
			accounts[rows] = account->id;
			ats[rows] = entry->at;
			ties[rows] = PointerGetDatum(entry->tie);
			leaves[rows++] = entry->type == CDP_ENTRY_LEAVE;
		}
	}
	if (rows > 0)
	{
		args[0] = CdpInt8Array(nodes, rows);
		args[1] = CdpInt8Array(accounts, rows);
		args[2] = CdpTimestampArray(ats, rows);
		args[3] = CdpVarlenaArray(ties, NULL, rows, TEXTOID);
		args[4] = CdpBoolArray(leaves, rows);
		CdpRunHere(&late_nodes, args, NULL);
		refold_rows(set);
	}
	refold_profiles(set, profiles, nprofiles);
}

/*
 * The same for addresses of e-mail: these profiles have had one since; and those
 * at odd places are where one was that is not there any more, or not since then,
 * the even ones where its node is now.
 */
void
CdpAccountsLateDomains(CdpAccountSet *set, const int64 *profiles, const TimestampTz *since,
					   int n, const int64 *lost, int nlost)
{
	Datum args[2];

	if (n > 0)
	{
		args[0] = CdpInt8Array(profiles, n);
		args[1] = CdpTimestampArray(since, n);
		CdpRunHere(&later_nodes, args, NULL);
		refold_rows(set);
	}
	refold_profiles(set, lost, nlost);
}

/* The nodes with evidence among those of a profile; hash entry. */
typedef struct Bearing
{
	int64 profile; /* hash key */
	List *nodes; /* int64 * */
} Bearing;

static Bearing *
bearing_of(HTAB *table, int64 profile)
{
	bool found;
	Bearing *bearing = hash_search(table, &profile, HASH_ENTER, &found);

	if (!found)
		bearing->nodes = NIL;
	return bearing;
}

static bool
same_nodes(const List *a, const List *b)
{
	ListCell *lc;
	ListCell *ld;

	if (list_length(a) != list_length(b))
		return false;
	forboth(lc, a, ld, b)
		if (*(int64 *) lfirst(lc) != *(int64 *) lfirst(ld))
			return false;
	return true;
}

/*
 * Nodes that are in another profile than before, and those that they are or
 * were together with: their entries count for other accounts when other nodes
 * with evidence are in it.
 */
void
CdpAccountsMoved(CdpAccountSet *set)
{
	CdpGraph *graph = set->batch->graph;
	int64 *profiles = NULL;
	int nprofiles = 0;
	HASHCTL ctl;
	HTAB *was;
	HTAB *is;
	int64 *nodes;
	int64 *olds;
	int64 *news;
	TimestampTz *seen;
	uint64 n;
	bool any = false;
	Datum arg;

	for (int i = 0; i < graph->nactive; i++)
	{
		CdpNode *node = graph->active[i];

		if (node->is_gone || node->old_profile == 0 || node->old_profile == node->profile)
			continue;
		if (profiles == NULL)
			profiles = palloc(sizeof(int64) * 2 * graph->nactive);
		profiles[nprofiles++] = node->old_profile;
		profiles[nprofiles++] = node->profile;
	}
	if (nprofiles == 0)
		return;
	qsort(profiles, nprofiles, sizeof(int64), CdpCompareInt8);
	nprofiles = qunique(profiles, nprofiles, sizeof(int64), CdpCompareInt8);

	arg = CdpInt8Array(profiles, nprofiles);
	n = CdpRunHere(&bearing_nodes, &arg, NULL);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Bearing);
	ctl.hcxt = CurrentMemoryContext;
	was = hash_create("cdp accounts before", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	is = hash_create("cdp accounts after", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	nodes = palloc(sizeof(int64) * Max(n, 1));
	olds = palloc(sizeof(int64) * Max(n, 1));
	news = palloc(sizeof(int64) * Max(n, 1));
	seen = palloc(sizeof(TimestampTz) * Max(n, 1));
	for (uint64 r = 0; r < n; r++)
	{
		CdpNode *known = CdpGraphNode(graph, CdpCellInt8(r, 1));
		bool isnull;
		bool bears = DatumGetBool(CdpCell(r, 4, &isnull));

		nodes[r] = CdpCellInt8(r, 1);
		news[r] = CdpCellInt8(r, 2);
		olds[r] = news[r];
		seen[r] = CdpCellInt8(r, 3);
		if (known != NULL && known->batch == graph->batch)
			olds[r] = known->old_profile;
		if (!bears)
			continue;
		any = true;
		/* a new node had no evidence before, and what it has now is new */
		if (olds[r] == 0)
			continue;
		bearing_of(was, olds[r])->nodes = lappend(bearing_of(was, olds[r])->nodes, &nodes[r]);
		bearing_of(is, news[r])->nodes = lappend(bearing_of(is, news[r])->nodes, &nodes[r]);
	}
	SPI_freetuptable(SPI_tuptable);
	for (uint64 r = 0; r < n && any; r++)
		if (olds[r] != 0 &&
			!same_nodes(bearing_of(was, olds[r])->nodes, bearing_of(is, news[r])->nodes))
			refold_node(set, nodes[r], seen[r], DT_NOBEGIN);
}
