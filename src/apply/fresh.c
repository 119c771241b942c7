/*-------------------------------------------------------------------------
 *
 * fresh.c
 *	  cdp.profile(…, fresh => true): what has not been applied yet included.
 *
 *	  The entries that the query's snapshot sees and that have not been applied
 *	  are read, the caller's own among them.  Mostly they change nothing about
 *	  who the person is: then those that the person's nodes own are folded, in
 *	  memory, on top of what is stored, or nothing is when there are none.
 *	  When they may change it (new identifiers, new evidence, late entries,
 *	  copies, decisions, undos, and any of that about somebody to whom evidence
 *	  leads that was refused), the person is computed from the log as asof.c
 *	  does it, and as if these entries had been applied.  So is everybody while a
 *	  change of the rules is on its way: what is stored may be judged by the new
 *	  ones already, or not yet.
 *
 * IDENTIFICATION
 *	  src/apply/fresh.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "apply/asof.h"
#include "cdp.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_profile_fresh);
PG_FUNCTION_INFO_V1(cdp_profile_fresh_by_id);

/* any other copy of these messages, and anything that undoes one of them */
static CdpStatement disputed = {
	"SELECT 1 WHERE (SELECT count(*) FROM (SELECT unnest($1) AS hash) AS u"
	" JOIN cdp.events e ON cdp.message_hash(e.source, e.message_id) = u.hash"
	" AND e.message_id IS NOT NULL) <> $3"
	" OR EXISTS (SELECT FROM (SELECT unnest($2) AS hash) AS u"
	" JOIN cdp.history_entries h ON h.hash = u.hash)",
	{"int8[]", "int8[]", "int8"}
};

static CdpStatement known_nodes = {
	"SELECT u.i, i.node_id, i.profile_id, i.first_seen"
	" FROM (SELECT unnest($1) AS t, unnest($2) AS i) AS u"
	" JOIN cdp.identities i ON i.identifier = u.t::cdp.identifier",
	{"text[]", "int8[]"}
};

/* how many of these pairs have evidence that is not later */
static CdpStatement settled_pairs = {
	"SELECT count(*) FROM (SELECT unnest($1) AS a, unnest($2) AS b, unnest($3) AS at) AS u"
	" JOIN cdp.links l ON l.a = u.a AND l.b = u.b AND l.origin = 'event'"
	" AND l.status = 'accepted' AND l.at <= u.at AND l.last_at IS NULL",
	{"int8[]", "int8[]", "timestamptz[]"}
};

/* the profiles that links which are not accepted lead to */
static CdpStatement refused_to = {
	"WITH me AS MATERIALIZED (SELECT i.node_id FROM (SELECT unnest($1) AS id) AS u"
	" JOIN cdp.identities i ON i.profile_id = u.id)"
	" SELECT o.profile_id FROM me m JOIN cdp.links l ON l.a = m.node_id"
	" JOIN cdp.identities o ON o.node_id = l.b WHERE l.status <> 'accepted'"
	" UNION"
	" SELECT o.profile_id FROM me m JOIN cdp.links l ON l.b = m.node_id"
	" JOIN cdp.identities o ON o.node_id = l.a WHERE l.status <> 'accepted'",
	{"int8[]"}
};

/* An identifier that is named by what is pending, by its number in the graph. */
typedef struct Named
{
	int64		parent;			/* of a forest: who hangs together */
	int64		node_id;		/* in cdp.identities; 0: not there */
	int64		profile_id;
	TimestampTz first_seen;
} Named;

/* A profile, by id; hash entry. */
typedef struct Known
{
	int64		id;
	int64		named;			/* one of its identifiers */
} Known;

typedef struct Pending
{
	CdpAsOf    *asof;
	CdpEntry   *entries;
	int			n;
	Named	   *named;
	int64		nnamed;
	HTAB	   *profiles;		/* Known: those that are named */
} Pending;

static int64
find(Pending *pending, int64 i)
{
	while (pending->named[i].parent != i)
	{
		pending->named[i].parent = pending->named[pending->named[i].parent].parent;
		i = pending->named[i].parent;
	}
	return i;
}

/*
 * May one of the entries decide about another one, or is one a copy?
 */
static bool
entries_are_plain(Pending *pending)
{
	int64	   *messages = palloc(sizeof(int64) * pending->n);
	int64	   *targets = palloc(sizeof(int64) * pending->n);
	int			nmessages = 0;
	int			ntargets = 0;
	Datum		args[3];
	bool		plain;

	for (int i = 0; i < pending->n; i++)
	{
		CdpEntry   *entry = &pending->entries[i];

		if (entry->reject_reason != NULL)
			continue;
		if (CDP_ENTRY_DECIDES(entry->type) || CDP_ENTRY_NAMES_NOBODY(entry->type))
			return false;
		targets[ntargets++] = CdpMessageHash(entry->source, CdpEntryMessageId(entry));
		if (entry->message_id != NULL)
			messages[nmessages++] = CdpMessageHash(entry->source, entry->message_id);
	}
	args[0] = CdpInt8Array(messages, nmessages);
	args[1] = CdpInt8Array(targets, ntargets);
	args[2] = Int64GetDatum(nmessages);
	plain = CdpRun(&disputed, args, NULL) == 0;
	SPI_freetuptable(SPI_tuptable);
	pfree(messages);
	pfree(targets);
	return plain;
}

/*
 * Who hangs together by what is stored and by what is pending.
 */
static void
find_groups(Pending *pending)
{
	CdpGraph   *graph = pending->asof->graph;
	Datum	   *names;
	int64	   *places;
	int			n = 0;
	Datum		args[2];

	pending->profiles = CdpAsOfTable("cdp profiles named", sizeof(int64), sizeof(Known));
	pending->nnamed = graph->next_node;
	pending->named = palloc0(sizeof(Named) * pending->nnamed);
	names = palloc(sizeof(Datum) * pending->nnamed);
	places = palloc(sizeof(int64) * pending->nnamed);
	for (int64 i = 1; i < pending->nnamed; i++)
	{
		CdpNode    *node = CdpGraphNode(graph, i);

		pending->named[i].parent = i;
		names[n] = PointerGetDatum(node->identifier);
		places[n++] = i;
	}
	args[0] = CdpVarlenaArray(names, NULL, n, TEXTOID);
	args[1] = CdpInt8Array(places, n);
	CdpRun(&known_nodes, args, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		int64		place = CdpCellInt8(r, 1);
		Named	   *named = &pending->named[place];
		Known	   *known;
		bool		found;

		named->node_id = CdpCellInt8(r, 2);
		named->profile_id = CdpCellInt8(r, 3);
		named->first_seen = CdpCellInt8(r, 4);
		known = hash_search(pending->profiles, &named->profile_id, HASH_ENTER, &found);
		if (found)
			pending->named[find(pending, place)].parent = find(pending, known->named);
		else
			known->named = place;
	}
	SPI_freetuptable(SPI_tuptable);
	for (int i = 0; i < pending->n; i++)
	{
		CdpEntry   *entry = &pending->entries[i];

		for (int j = 1; j < entry->nnodes; j++)
			pending->named[find(pending, entry->nodes[j])].parent =
				find(pending, entry->nodes[0]);
	}
}

/*
 * Do the entries of the group leave everything as it is about who is who?  Then
 * gather them in front, *n of them.
 */
static bool
group_is_settled(Pending *pending, int64 group, int64 profile_id, int *n)
{
	CdpGraph   *graph = pending->asof->graph;
	int			max = 0;
	int64	   *as;
	int64	   *bs;
	TimestampTz *ats;
	int			npairs = 0;
	Datum		args[3];
	bool		settled;

	for (int64 i = 1; i < pending->nnamed; i++)
	{
		if (find(pending, i) == group && pending->named[i].profile_id != profile_id)
			return false;
	}
	*n = 0;
	for (int i = 0; i < pending->n; i++)
	{
		CdpEntry	entry = pending->entries[i];

		if (entry.nnodes == 0 || find(pending, entry.nodes[0]) != group)
			continue;
		max += entry.nnodes - 1;
		for (int j = 0; j < entry.nnodes; j++)
			if (entry.at < pending->named[entry.nodes[j]].first_seen)
				return false;
		pending->entries[i] = pending->entries[*n];
		pending->entries[(*n)++] = entry;
	}
	if (max == 0)
		return true;
	if (graph->nshared > 0 || graph->nnewest > 0)
		return false;
	as = palloc(sizeof(int64) * max);
	bs = palloc(sizeof(int64) * max);
	ats = palloc(sizeof(TimestampTz) * max);
	for (int i = 0; i < *n; i++)
	{
		CdpEntry   *entry = &pending->entries[i];

		for (int j = 1; j < entry->nnodes; j++)
		{
			int64		a = pending->named[entry->nodes[0]].node_id;
			int64		b = pending->named[entry->nodes[j]].node_id;

			as[npairs] = Min(a, b);
			bs[npairs] = Max(a, b);
			ats[npairs++] = entry->at;
		}
	}
	args[0] = CdpInt8Array(as, npairs);
	args[1] = CdpInt8Array(bs, npairs);
	args[2] = CdpTimestampArray(ats, npairs);
	CdpRun(&settled_pairs, args, NULL);
	settled = CdpCellInt8(0, 1) == npairs;
	SPI_freetuptable(SPI_tuptable);
	return settled;
}

/*
 * Do the entries leave everybody as he is to whom the profile is connected by
 * evidence that is not accepted?  What is refused may be admitted, and the
 * other way round, when a profile at its other end changes, however far away.
 */
static bool
neighbours_are_settled(Pending *pending, int64 profile_id)
{
	HTAB	   *visited = CdpAsOfTable("cdp profiles near", sizeof(int64), sizeof(int64));
	int64	   *frontier = palloc(sizeof(int64));
	int			nfrontier = 1;

	(void) hash_search(visited, &profile_id, HASH_ENTER, NULL);
	frontier[0] = profile_id;
	while (nfrontier > 0)
	{
		Datum		arg = CdpInt8Array(frontier, nfrontier);
		bool		settled = true;

		CHECK_FOR_INTERRUPTS();
		CdpRun(&refused_to, &arg, NULL);
		frontier = repalloc(frontier, sizeof(int64) * Max(SPI_processed, 1));
		nfrontier = 0;
		for (uint64 r = 0; r < SPI_processed; r++)
		{
			int64		id = CdpCellInt8(r, 1);
			bool		found;

			(void) hash_search(visited, &id, HASH_ENTER, &found);
			if (!found)
				frontier[nfrontier++] = id;
		}
		SPI_freetuptable(SPI_tuptable);
		for (int i = 0; i < nfrontier && settled; i++)
		{
			Known	   *known = hash_search(pending->profiles, &frontier[i], HASH_FIND, NULL);
			int			n;

			if (known != NULL)
				settled = group_is_settled(pending, find(pending, known->named),
										   frontier[i], &n);
		}
		if (!settled)
			return false;
	}
	return true;
}

/*
 * Fold the first n entries into the profile's states.
 */
static void
fold(Pending *pending, int n, CdpTraitSet *traits, CdpProfileNodes *nodes)
{
	CdpContributions *contributions = palloc0(sizeof(CdpContributions) * Max(n, 1));
	HTAB	   *members = CdpAsOfTable("cdp members", sizeof(int64), sizeof(Known));

	for (int i = 0; i < nodes->nnodes; i++)
	{
		Known	   *member = hash_search(members, &nodes->nodes[i].node_id, HASH_ENTER, NULL);

		member->named = i;
	}
	CdpTraitsEvaluate(traits, NULL, pending->entries, n, contributions);
	for (int i = 0; i < n; i++)
	{
		CdpEntry   *entry = &pending->entries[i];

		for (int j = 0; j < entry->nnodes; j++)
		{
			Known	   *member = hash_search(members, &pending->named[entry->nodes[j]].node_id,
											 HASH_FIND, NULL);
			CdpProfileNode *node = &nodes->nodes[member->named];

			node->last_seen = Max(node->last_seen, entry->at);
			if (entry->nodes[j] == entry->owner)
				CdpNodeFold(nodes->accs[member->named], entry, &contributions[i], true);
		}
	}
}

/*
 * The profile as stored, with what is pending on top; false when what is
 * pending asks for more than that.  *known: there is a profile.
 */
static bool
read_simply(Pending *pending, CdpIdentifier *canonical, int64 profile_id,
			CdpTraitSet *traits, CdpProfileNodes *nodes, bool *known)
{
	int64		start = 0;
	int			n = 0;

	if (pending->asof->changing)
		return false;
	*known = profile_id != 0;
	if (pending->n > 0)
	{
		if (!pending->asof->by_index || !entries_are_plain(pending))
			return false;
		find_groups(pending);
		for (int64 i = 1; i < pending->nnamed && start == 0; i++)
		{
			if (profile_id != 0 && pending->named[i].profile_id == profile_id)
				start = find(pending, i);
		}
		if (profile_id == 0)
		{
			CdpNode    *node = CdpGraphKnown(pending->asof->graph, canonical);

			start = node != NULL ? node->id : 0;
		}
		if (profile_id != 0 && !neighbours_are_settled(pending, profile_id))
			return false;
		/* the last that gathers entries */
		if (start != 0 &&
			(profile_id == 0 || !group_is_settled(pending, start, profile_id, &n)))
			return false;
	}
	if (!*known)
		return true;
	if (!CdpProfileRead(profile_id, traits, nodes))
		elog(ERROR, "profile %lld is not there", (long long) profile_id);
	if (n > 0)
		fold(pending, n, traits, nodes);
	return true;
}

static Jsonb *
fresh_profile(CdpIdentifier *raw, int64 profile_id)
{
	TimestampTz applied;
	int64		generation = CdpApplierGlance(&applied);
	CdpTraitSet *traits = CdpTraitSetGet(generation);
	Pending		pending = {0};
	CdpProfileNodes nodes;
	CdpIdentifier *canonical;
	CdpKind    *kind;
	bool		known;

	if (raw == NULL)
	{
		raw = CdpAsOfIdentifierOf(profile_id);
		if (raw == NULL)
			return NULL;
	}
	profile_id = CdpProfileOfIdentifier(generation, raw);
	pending.asof = CdpAsOfBegin(DT_NOEND, DT_NOEND);
	pending.asof->unapplied = true;
	(void) CdpCanonicalise(pending.asof->kinds, raw, &canonical, &kind);
	if (canonical == NULL || CdpAsOfHidden(raw))
		return NULL;
	pending.n = CdpCursorsPending(pending.asof->cursors, cdp_max_fresh_entries + 1,
								  &pending.entries);
	if (pending.n > cdp_max_fresh_entries)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d entries have not been applied",
						cdp_max_fresh_entries),
				 errhint("Wait for the worker, call cdp.apply(), or raise cdp.max_fresh_entries.")));
	for (int i = 0; i < pending.n; i++)
	{
		(void) CdpEntryJudge(&pending.entries[i]);
		CdpGraphCheck(pending.asof->graph, &pending.entries[i], 1);
	}
	CdpGraphAdd(pending.asof->graph, pending.entries, pending.n, false);

	if (!read_simply(&pending, canonical, profile_id, traits, &nodes, &known))
	{
		CdpAsOf    *asof = CdpAsOfBegin(DT_NOEND, DT_NOEND);
		CdpProfileNodes stored;
		CdpNode    *root;
		CdpEntry  **entries;
		int			n;

		asof->unapplied = true;
		n = CdpCursorsPending(asof->cursors, cdp_max_fresh_entries + 1, &pending.entries);
		for (int i = 0; i < n; i++)
			CdpAsOfTakeEntry(asof, &pending.entries[i], false);
		root = CdpAsOfComponent(asof, raw, &entries, &n);
		known = root != NULL;
		if (known)
		{
			CdpAsOfProfile(asof, root, entries, n, traits, &nodes);
			/* a segment that is left by another rule asks who was in it */
			if (nodes.profile_id != 0 && CdpProfileRead(nodes.profile_id, traits, &stored))
			{
				nodes.nsegments = stored.nsegments;
				nodes.segments = stored.segments;
			}
		}
	}
	return known ? CdpProfileJson(generation, &nodes, NULL, CdpReadInstant(applied)) : NULL;
}

static Jsonb *
fresh_by_identifier(FunctionCallInfo fcinfo)
{
	return fresh_profile(PG_GETARG_IDENTIFIER_PP(0), 0);
}

static Jsonb *
fresh_by_id(FunctionCallInfo fcinfo)
{
	return fresh_profile(NULL, PG_GETARG_INT64(0));
}

/*
 * cdp.profile(identifier, fresh) returns jsonb
 */
Datum
cdp_profile_fresh(PG_FUNCTION_ARGS)
{
	if (!PG_GETARG_BOOL(1))
		return cdp_profile(fcinfo);
	return CdpAsOfJson(fcinfo, fresh_by_identifier);
}

/*
 * cdp.profile(profile_id, fresh) returns jsonb
 */
Datum
cdp_profile_fresh_by_id(PG_FUNCTION_ARGS)
{
	if (!PG_GETARG_BOOL(1))
		return cdp_profile_by_id(fcinfo);
	return CdpAsOfJson(fcinfo, fresh_by_id);
}
