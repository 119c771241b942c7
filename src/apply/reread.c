/*-------------------------------------------------------------------------
 *
 * reread.c
 *	  History under changed rules of identity, a step at a time.
 *
 *	  First the entries, in the order of the log: what an entry means by the
 *	  kinds as they were is compared with what it means now.  Mostly that is
 *	  the same.  Otherwise the entry is withdrawn as it was read, and joins
 *	  the batch as it is read now, like one that has just come; so what it did
 *	  is taken back and done again, and nothing else is touched.  An entry that
 *	  could not be used may be usable now, and the other way round; then other
 *	  copies of its message are looked at, too.
 *
 *	  Then the identifiers of the kinds that have other rules about who may be
 *	  one person, or another policy about what breaks these: their clusters are
 *	  judged again.
 *
 *	  Each step is a transaction and leaves the tables as they should be for a
 *	  log that is read in two ways, so entries that come meanwhile are applied
 *	  between the steps.
 *
 * IDENTIFICATION
 *	  src/apply/reread.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"

/* which of these entries are evidence, that is, have an owner */
static CdpStatement counting_entries = {
	"SELECT u.entry FROM (SELECT unnest($1) AS owner, unnest($2) AS at, unnest($3) AS entry) AS u"
	" JOIN cdp.identities i ON i.identifier = u.owner::cdp.identifier"
	" WHERE EXISTS (SELECT FROM cdp.unpack_entries(i.recent) r"
	"  WHERE r.at = u.at AND r.entry = u.entry)"
	" OR EXISTS (SELECT FROM cdp.entry_pieces p CROSS JOIN LATERAL cdp.unpack_entries(p.refs) r"
	"  WHERE p.owner = i.node_id AND p.until >= u.at AND p.since <= u.at"
	"  AND r.at = u.at AND r.entry = u.entry)"
	" OR EXISTS (SELECT FROM cdp.withheld_entries w"
	"  WHERE w.owner = i.node_id AND w.at = u.at AND w.entry = u.entry)",
	{"text[]", "timestamptz[]", "int8[]"}
};

/* decisions that are undone have rows, too, as long as they can be read */
static CdpStatement delete_undone = {
	"DELETE FROM cdp.decisions d USING unnest($1) AS u (entry)"
	" WHERE d.entry = u.entry AND d.a IS NULL",
	{"int8[]"}
};

static CdpStatement delete_rejected = {
	"DELETE FROM cdp.rejected r WHERE r.entry = ANY ($1)",
	{"int8[]"}
};

/* in the order of the index, which keeps those of a kind together */
static CdpStatement next_identifiers = {
	"SELECT i.node_id, i.identifier FROM cdp.identities i"
	" WHERE i.identifier > $1::cdp.identifier ORDER BY i.identifier LIMIT $2",
	{"text", "int8"}
};

static CdpStatement count_identifiers = {
	"SELECT count(*) FROM cdp.identities i WHERE cdp.kind(i.identifier) = ANY ($1)",
	{"text[]"}
};

static int
by_entry(const void *a, const void *b)
{
	int64		x = (*(CdpReadings *const *) a)->was.id;
	int64		y = (*(CdpReadings *const *) b)->was.id;

	return x < y ? -1 : x > y ? 1 : 0;
}

/*
 * The entries that are read otherwise, in the order of their numbers.
 */
static int
compare_readings(CdpBatch *batch, CdpRules *rules, CdpEntry *entries, int n,
				 CdpReadings ***result)
{
	CdpReadings **list = palloc(sizeof(CdpReadings *) * Max(n, 1));
	int			nlist = 0;
	int			i;

	for (i = 0; i < n; i++)
	{
		CdpReadings *reread;
		CdpKindSet *before;

		CHECK_FOR_INTERRUPTS();
		if (entries[i].type == CDP_ENTRY_UNDO || !CdpEntryJudge(&entries[i]))
			continue;
		before = CdpRulesReading(rules, &entries[i]);
		if (before == rules->kinds)
			continue;
		reread = palloc(sizeof(CdpReadings));
		reread->was = entries[i];
		reread->is = entries[i];
		reread->before = before;
		reread->counted = false;
		CdpGraphCheckAs(batch->graph, before, &reread->was);
		CdpGraphCheckAs(batch->graph, rules->kinds, &reread->is);
		if (CdpGraphSameReading(&reread->was, &reread->is))
			pfree(reread);
		else
			list[nlist++] = reread;
	}
	qsort(list, nlist, sizeof(CdpReadings *), by_entry);
	*result = list;
	return nlist;
}

/*
 * Which of them count?
 */
void
CdpFindCounting(CdpReadings **list, int n)
{
	Datum	   *owners = palloc(sizeof(Datum) * n);
	TimestampTz *ats = palloc(sizeof(TimestampTz) * n);
	int64	   *ids = palloc(sizeof(int64) * n);
	Datum		args[3];
	int			nids = 0;
	uint64		r;
	int			i;

	for (i = 0; i < n; i++)
	{
		CdpIdentifier *owner = CdpGraphOwnerOf(&list[i]->was);

		if (owner == NULL)
			continue;
		owners[nids] = PointerGetDatum(owner);
		ats[nids] = list[i]->was.at;
		ids[nids++] = list[i]->was.id;
	}
	if (nids == 0)
		return;
	args[0] = CdpVarlenaArray(owners, NULL, nids, TEXTOID);
	args[1] = CdpTimestampArray(ats, nids);
	args[2] = CdpInt8Array(ids, nids);
	CdpRun(&counting_entries, args, NULL);
	for (r = 0; r < SPI_processed; r++)
	{
		CdpReadings key;
		CdpReadings *pointer = &key;
		CdpReadings **found;

		key.was.id = CdpCellInt8(r, 1);
		found = bsearch(&pointer, list, n, sizeof(CdpReadings *), by_entry);
		if (found != NULL)
			(*found)->counted = true;
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
renew_history(CdpBatch *batch, CdpReadings **list, int n)
{
	CdpEntry  **entries = palloc(sizeof(CdpEntry *) * n);
	CdpKindSet **before = palloc(sizeof(CdpKindSet *) * n);
	int			i;

	for (i = 0; i < n; i++)
	{
		entries[i] = &list[i]->is;
		before[i] = list[i]->before;
	}
	CdpHistoryRenew(batch, entries, before, n);
}

/*
 * Does the entry join the batch?  Otherwise another copy counts, or it is undone.
 */
static bool
joins_batch(CdpReadings *reread)
{
	return reread->counted || reread->was.reject_reason != NULL ||
		reread->is.reject_reason != NULL || CdpGraphOwnerOf(&reread->was) == NULL;
}

/*
 * The copies that count instead of entries that cannot be used any more.
 */
static List *
other_copies(CdpBatch *batch, CdpCursorSet *applied, CdpReadings **list, int n)
{
	text	  **sources = palloc(sizeof(text *) * n);
	text	  **messages = palloc(sizeof(text *) * n);
	List	   *copies;
	List	   *result = NIL;
	ListCell   *lc;
	int			nmessages = 0;
	int			i;

	for (i = 0; i < n; i++)
	{
		if (!list[i]->counted || list[i]->is.reject_reason == NULL ||
			list[i]->is.message_id == NULL)
			continue;
		sources[nmessages] = list[i]->is.source;
		messages[nmessages++] = list[i]->is.message_id;
	}
	if (nmessages == 0)
		return NIL;
	copies = CdpAppliedMessages(batch, applied, sources, messages, nmessages);
	foreach(lc, copies)
	{
		CdpEntry   *copy = lfirst(lc);
		CdpReadings key;
		CdpReadings *pointer = &key;
		CdpReadings **found;

		/* those that are in the batch anyway are compared there */
		key.was.id = copy->id;
		found = bsearch(&pointer, list, n, sizeof(CdpReadings *), by_entry);
		if (found == NULL || !joins_batch(*found))
			result = lappend(result, copy);
	}
	return result;
}

/*
 * Entries that are read otherwise: out with what they did, in with what they do.
 */
static void
exchange(CdpBatch *batch, CdpCursorSet *applied, CdpReadings **list, int n)
{
	int64	   *refused = palloc(sizeof(int64) * n);
	int64	   *undecided = palloc(sizeof(int64) * n);
	int64		rejected = batch->applier.rejected;
	int64		duplicates = batch->applier.duplicates;
	List	   *copies;
	ListCell   *lc;
	int			nrefused = 0;
	int			nundecided = 0;
	int			i;

	CdpFindCounting(list, n);
	renew_history(batch, list, n);
	copies = other_copies(batch, applied, list, n);
	batch->entries = palloc0(sizeof(CdpEntry) * (n + list_length(copies)));
	batch->nentries = 0;
	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry;

		if (list[i]->was.reject_reason != NULL)
			refused[nrefused++] = list[i]->was.id;
		if (list[i]->counted)
			batch->reread = lappend(batch->reread, &list[i]->was);
		else if (!joins_batch(list[i]))
			continue;
		else if (CDP_ENTRY_DECIDES(list[i]->was.type) &&
				 list[i]->is.reject_reason != NULL)
			undecided[nundecided++] = list[i]->was.id;
		entry = &batch->entries[batch->nentries++];
		*entry = list[i]->is;
		entry->reject_reason = NULL;
		entry->reject_detail = NULL;
		entry->reject_sqlstate = 0;
	}
	foreach(lc, copies)
		batch->entries[batch->nentries++] = *(CdpEntry *) lfirst(lc);
	if (nrefused > 0)
	{
		Datum		arg = CdpInt8Array(refused, nrefused);

		CdpRun(&delete_rejected, &arg, NULL);
	}
	if (nundecided > 0)
	{
		Datum		arg = CdpInt8Array(undecided, nundecided);

		CdpRun(&delete_undone, &arg, NULL);
	}
	CdpBatchFold(batch, applied);

	/* they were counted when they came */
	batch->applier.entries -= batch->nread;
	batch->applier.rejected = rejected - nrefused;
	for (i = 0; i < n; i++)
		if (list[i]->is.reject_reason != NULL)
			batch->applier.rejected++;
	batch->applier.duplicates = duplicates;
	batch->nread = 0;
}

static int64
count_judged(List *names)
{
	Datum	   *kinds = palloc(sizeof(Datum) * Max(list_length(names), 1));
	int64		count;
	ListCell   *lc;
	int			n = 0;
	Datum		arg;

	foreach(lc, names)
		kinds[n++] = CStringGetTextDatum(lfirst(lc));
	arg = CdpVarlenaArray(kinds, NULL, n, TEXTOID);
	CdpRun(&count_identifiers, &arg, NULL);
	count = CdpCellInt8(0, 1);
	SPI_freetuptable(SPI_tuptable);
	return count;
}

/*
 * Judge the clusters of the next identifiers again; returns how many, 0: none
 * is left.
 */
static int
judge_next(CdpBatch *batch, CdpRuleChange *change, List *names, int max)
{
	CdpGraph   *graph = batch->graph;
	int64	   *nodes = palloc(sizeof(int64) * max);
	List	   *newest = NIL;
	ListCell   *lc;
	int			n = 0;
	int			kept = 0;
	int			i;

	foreach(lc, names)
	{
		char	   *name = lfirst(lc);
		int			len = strlen(name);
		Datum		args[2];
		uint64		r;

		/* those of kinds before the position are done */
		if (change->position != NULL)
		{
			char	   *colon = strchr(change->position, ':');
			int			poslen = colon - change->position;
			int			cmp = strncmp(name, change->position, Min(len, poslen));

			if (cmp == 0)
				cmp = len - poslen;
			if (cmp < 0)
				continue;
			if (cmp > 0)
				change->position = NULL;
		}
		if (change->position == NULL)
			change->position = psprintf("%s:", name);
		args[0] = CStringGetTextDatum(change->position);
		args[1] = Int64GetDatum(max - n);
		CdpRun(&next_identifiers, args, NULL);
		for (r = 0; r < SPI_processed; r++)
		{
			CdpIdentifier *identifier = CdpCellVarlena(r, 2, CurrentMemoryContext);

			if (CdpIdentifierKindLength(identifier) != len ||
				memcmp(VARDATA_ANY(identifier), name, len) != 0)
				break;
			nodes[n++] = CdpCellInt8(r, 1);
			change->position = text_to_cstring((text *) identifier);
		}
		SPI_freetuptable(SPI_tuptable);
		if (n == max)
			break;
	}
	if (n == 0)
		return 0;

	/* whose cluster has been judged for this change, with others of it, is done */
	for (i = 0; i < n; i++)
		if (!CdpGraphJudgedFor(graph, nodes[i], change->id))
			nodes[kept++] = nodes[i];
	CdpGraphAddNodes(graph, nodes, kept);
	for (i = 0; i < kept; i++)
	{
		CdpNode    *node = CdpGraphNode(graph, nodes[i]);

		node->dirty = true;
		if (CdpNodeShared(node) == CDP_SHARED_NEWEST)
			newest = lappend(newest, &nodes[i]);
	}
	/* of other kinds the latest evidence is not kept */
	CdpRenewEvidence(batch, newest);
	CdpGraphSettle(graph, NULL, 0);
	CdpWithhold(batch);

	/* the latest evidence is asked for by one identifier after the other */
	if (graph->nshared == 0)
		CdpGraphKeepJudged(graph, change->id);
	return n;
}

/*
 * What known() and has_identifier() say may have changed for everybody, also
 * where no entry is read otherwise.
 */
static void
renew_segments(const CdpSegmentSet *segments)
{
	if (!segments->identity)
		return;
	for (int i = 0; i < segments->nsegments; i++)
		if (segments->segments[i].identity)
			CdpBackfillBegin("segment", segments->segments[i].id, 0, false);
	CdpGenerationBump();
}

/*
 * The next step of the change at work.  applied: how far the log has been.
 */
int64
CdpReread(CdpBatch *batch, CdpRules *rules, CdpCursorSet *applied, int max)
{
	CdpRuleChange *change = &rules->changes[rules->n - 1];
	List	   *names = CdpRulesJudged(rules);
	int			n = 0;
	int			i;

	batch->rereading = true;
	if (!change->judging)
	{
		CdpRules	earlier = *rules;
		CdpEntry   *entries;
		CdpReadings **list;
		int			nlist;
		bool		more;

		/* reading moves the cursors: the entries were read as they are now */
		earlier.changes = palloc(sizeof(CdpRuleChange) * rules->n);
		memcpy(earlier.changes, rules->changes, sizeof(CdpRuleChange) * rules->n);
		earlier.changes[rules->n - 1].cursors = CdpCursorsCopy(change->cursors);
		n = CdpCursorsRead(change->cursors, max, &entries, &more, false);
		nlist = compare_readings(batch, &earlier, entries, n, &list);
		if (nlist > 0)
			exchange(batch, applied, list, nlist);
		change->done += n;
		if (!more)
		{
			change->judging = true;
			change->done = 0;
			change->total = names != NIL ? count_judged(names) : 0;
		}
	}
	else if (names != NIL)
	{
		if (change->total == 0)
			change->total = count_judged(names);
		n = judge_next(batch, change, names, max);
		change->done += n;
		if (n == 0)
			names = NIL;
	}

	/* a parent's name may be read otherwise, though no entry of the account is */
	if (change->judging && names == NIL)
		CdpAccountsBackfill(batch, false);

	/* entries that name accounts alone touch no node */
	if (batch->graph->nactive > 0 || batch->nentries > 0 || batch->changes.n > 0)
	{
		CdpProfilesCollect(batch);
		for (i = 0; i < batch->nprofiles; i++)
			batch->profiles[i]->cause = CDP_CAUSE_DEFINITION;
		CdpBatchWrite(batch);
	}
	if (change->judging && names == NIL)
	{
		CdpRulesFinish();
		renew_segments(batch->segments);
	}
	else
		CdpRulesWrite(rules, true);
	return Max(n, 1);
}
