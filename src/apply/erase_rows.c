/*-------------------------------------------------------------------------
 *
 * erase_rows.c
 *	  Rows of the log that name somebody who is erased.
 *
 *	  A row goes, when it is the person's, or loses what names the person.  What
 *	  it did is exchanged for what it does, as under changed rules (reread.c):
 *	  entries that count are withdrawn as they were, and join the batch as they
 *	  are.  So everything that was derived follows by itself.
 *
 * IDENTIFICATION
 *	  src/apply/erase_rows.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "apply/erase.h"
#include "cdp.h"
#include "statement.h"
#include "traits/traitset.h"

/* rows whose payload is looked up together, where it is in attached tables */
#define READ_TOGETHER 1000

static CdpStatement delete_rows = {
	"DELETE FROM cdp.events e USING"
	" (SELECT unnest($1) AS xid, unnest($2) AS id, unnest($3) AS received_at) AS u"
	" WHERE e.xid = u.xid AND e.id = u.id AND e.received_at = u.received_at",
	{"int8[]", "int8[]", "timestamptz[]"}
};

static CdpStatement change_rows = {
	"UPDATE cdp.events e SET event = u.event, identifiers = u.identifiers::cdp.identifier[],"
	" properties = u.properties, context = u.context, type = u.type, message_id = u.message_id"
	" FROM (SELECT unnest($1) AS xid, unnest($2) AS id, unnest($3) AS received_at,"
	" unnest($4) AS event, unnest($5) AS identifiers, unnest($6) AS properties,"
	" unnest($7) AS context, unnest($8) AS type, unnest($9) AS message_id) AS u"
	" WHERE e.xid = u.xid AND e.id = u.id AND e.received_at = u.received_at",
	{"int8[]", "int8[]", "timestamptz[]", "text[]", "text[]", "jsonb[]", "jsonb[]", "text[]", "text[]"}
};

static CdpStatement forget_rejected = {
	"WITH i AS (DELETE FROM cdp.isolated i USING unnest($1) AS u (entry) WHERE i.entry = u.entry)"
	" DELETE FROM cdp.rejected r USING unnest($1) AS u (entry) WHERE r.entry = u.entry",
	{"int8[]"},
	"rejected"
};

static CdpStatement forget_attached = {
	"DELETE FROM cdp.attached_rows a USING unnest($1) AS u (entry) WHERE a.entry = u.entry",
	{"int8[]"},
	"attached_rows"
};

static CdpStatement forget_history = {
	"DELETE FROM cdp.history_entries h USING"
	" (SELECT unnest($1) AS hash, unnest($2) AS entry) AS u"
	" WHERE h.hash = u.hash AND h.entry = u.entry",
	{"int8[]", "int8[]"},
	"history_entries"
};

/* what nobody names any more, at no earlier time either */
static CdpStatement forget_former = {
	"DELETE FROM cdp.former_identities f USING"
	" (SELECT unnest($1) AS name, unnest($2) AS hash) AS u"
	" WHERE f.identifier = u.name::cdp.identifier"
	" AND NOT EXISTS (SELECT FROM cdp.history_entries h WHERE h.hash = u.hash)",
	{"text[]", "int8[]"},
	"former_identities"
};

/*
 * Does the entry belong to the person, that is, has it an owner among the
 * identifiers?  As far as others do not have it, too, or any.
 */
bool
CdpErasureOwns(CdpErasure *erasure, CdpEntry *entry, bool shared_too)
{
	CdpIdentifier *owner = CdpGraphOwnerOf(entry);
	bool		shared;

	return owner != NULL && CdpScrubberHas(erasure->scrubber, owner, &shared) &&
		(shared_too || !shared);
}

static bool
names_erased(CdpErasure *erasure, CdpEntry *entry)
{
	for (int i = 0; i < entry->ncandidates; i++)
	{
		bool		shared;

		if (CdpScrubberHas(erasure->scrubber, CdpGraphCandidate(entry, i), &shared) && !shared)
			return true;
	}
	return false;
}

/*
 * Does the name of the message, which cannot be changed, say who it is?
 */
static bool
names_in_key(CdpErasure *erasure, CdpEntry *entry)
{
	return (entry->message_id != NULL &&
			CdpScrubText(erasure->scrubber, entry->message_id) != NULL) ||
		(entry->source != NULL && CdpScrubText(erasure->scrubber, entry->source) != NULL);
}

/*
 * The identifiers of somebody nobody knows, but for accounts.
 */
static ArrayType *
anonymous(CdpErasureRows *rows, ArrayType *identifiers)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;
	int			kept = 1;
	Datum	   *result;

	deconstruct_array(identifiers, ARR_ELEMTYPE(identifiers), -1, false, TYPALIGN_INT,
					  &elems, &nulls, &n);
	result = palloc(sizeof(Datum) * (n + 1));
	result[0] = PointerGetDatum(rows->erasure->anonymous);
	for (int i = 0; i < n; i++)
	{
		CdpIdentifier *canonical;
		CdpKind	   *kind;

		if (!nulls[i] &&
			CdpCanonicalise(rows->batch->kinds, DatumGetIdentifierPP(elems[i]), &canonical,
							&kind) == CDP_CANONICAL_ACCOUNT)
			result[kept++] = elems[i];
	}
	return construct_array(result, kept, ARR_ELEMTYPE(identifiers), -1, false, TYPALIGN_INT);
}

/*
 * What an expired entry said about consent, and under which names of persons;
 * false: nothing.  It is no copy of its message any more.
 */
bool
CdpErasureConsentOnly(CdpErasureRows *rows, CdpEntry *entry, Datum *values, bool *isnull)
{
	Jsonb	   *said = CdpConsentPreferences(entry);
	Datum	   *elems;
	bool	   *nulls;
	int			n;
	int			kept = 0;

	if (said == NULL || entry->reject_reason != NULL || entry->identifiers == NULL)
		return false;
	deconstruct_array(entry->identifiers, ARR_ELEMTYPE(entry->identifiers), -1, false,
					  TYPALIGN_INT, &elems, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		CdpIdentifier *canonical;
		CdpKind	   *kind;

		if (!nulls[i] &&
			CdpCanonicalise(rows->batch->kinds, DatumGetIdentifierPP(elems[i]), &canonical,
							&kind) != CDP_CANONICAL_ACCOUNT)
			elems[kept++] = elems[i];
	}
	if (kept == 0)
		return false;
	values[CDP_EVENTS_TYPE] = CStringGetTextDatum("consent");
	values[CDP_EVENTS_IDENTIFIERS] =
		PointerGetDatum(construct_array(elems, kept, ARR_ELEMTYPE(entry->identifiers), -1, false,
										TYPALIGN_INT));
	values[CDP_EVENTS_PROPERTIES] = JsonbPGetDatum(said);
	isnull[CDP_EVENTS_TYPE] = isnull[CDP_EVENTS_PROPERTIES] = false;
	isnull[CDP_EVENTS_EVENT] = isnull[CDP_EVENTS_CONTEXT] = isnull[CDP_EVENTS_MESSAGE_ID] = true;
	return true;
}

typedef enum Fate
{
	FATE_STAY,
	FATE_CHANGE,
	FATE_GO
} Fate;

/*
 * What becomes of a row?  values are changed in place.
 */
static Fate
judge_row(CdpErasureRows *rows, CdpEntry *entry, bool owned, Datum *values, bool *isnull)
{
	CdpScrubber *scrubber = rows->erasure->scrubber;
	bool		changed = false;

	if (owned)
		return FATE_GO;
	if (CDP_ENTRY_DECIDES(entry->type) && names_erased(rows->erasure, entry))
		return FATE_GO;
	if (!isnull[CDP_EVENTS_IDENTIFIERS])
	{
		ArrayType  *kept = CdpScrubIdentifiers(scrubber,
											  DatumGetArrayTypeP(values[CDP_EVENTS_IDENTIFIERS]));

		if (kept != NULL)
		{
			/* what could not be applied counts for nobody */
			if (entry->reject_reason != NULL)
				return FATE_GO;
			values[CDP_EVENTS_IDENTIFIERS] = PointerGetDatum(kept);
			changed = true;
		}
	}
	if (!isnull[CDP_EVENTS_EVENT])
	{
		text	   *event = CdpScrubText(scrubber, DatumGetTextPP(values[CDP_EVENTS_EVENT]));

		if (event != NULL)
		{
			values[CDP_EVENTS_EVENT] = PointerGetDatum(event);
			changed = true;
		}
	}
	for (int i = CDP_EVENTS_PROPERTIES; i <= CDP_EVENTS_CONTEXT; i++)
	{
		Jsonb	   *kept = isnull[i] ? NULL : CdpScrubJsonb(scrubber, DatumGetJsonbP(values[i]));

		if (kept != NULL)
		{
			values[i] = JsonbPGetDatum(kept);
			changed = true;
		}
	}
	return changed ? FATE_CHANGE : FATE_STAY;
}

static int
by_number(const ListCell *a, const ListCell *b)
{
	return CdpCompareInt8(&((CdpEntry *) lfirst(a))->id, &((CdpEntry *) lfirst(b))->id);
}

static int
by_entry(const ListCell *a, const ListCell *b)
{
	return CdpCompareInt8(&((CdpReadings *) lfirst(a))->was.id, &((CdpReadings *) lfirst(b))->was.id);
}

static void
write_changed(List *changed)
{
	int			n = list_length(changed);
	int64	   *xids = palloc(sizeof(int64) * Max(n, 1));
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	TimestampTz *received = palloc(sizeof(TimestampTz) * Max(n, 1));
	Datum	   *columns[6];
	bool	   *nulls[6];
	static const int attributes[6] = { CDP_EVENTS_EVENT, CDP_EVENTS_IDENTIFIERS,
									   CDP_EVENTS_PROPERTIES, CDP_EVENTS_CONTEXT,
									   CDP_EVENTS_TYPE, CDP_EVENTS_MESSAGE_ID };
	static const Oid types[6] = { TEXTOID, TEXTOID, JSONBOID, JSONBOID, TEXTOID, TEXTOID };
	Datum		args[9];
	ListCell   *lc;
	Oid			output;
	bool		isvarlena;

	if (n == 0)
		return;
	getTypeOutputInfo(get_array_type(CdpTypeOid("identifier")), &output, &isvarlena);
	for (int c = 0; c < lengthof(attributes); c++)
	{
		columns[c] = palloc(sizeof(Datum) * n);
		nulls[c] = palloc(sizeof(bool) * n);
	}
	n = 0;
	foreach(lc, changed)
	{
		CdpEntry   *entry = &((CdpReadings *) lfirst(lc))->is;

		xids[n] = entry->xid;
		ids[n] = entry->id;
		received[n] = entry->received_at;
		for (int c = 0; c < lengthof(attributes); c++)
		{
			nulls[c][n] = entry->isnull[attributes[c]];
			columns[c][n] = entry->values[attributes[c]];
			/* arrays in an array go as text */
			if (attributes[c] == CDP_EVENTS_IDENTIFIERS && !nulls[c][n])
				columns[c][n] = CStringGetTextDatum(OidOutputFunctionCall(output, columns[c][n]));
		}
		n++;
	}
	args[0] = CdpInt8Array(xids, n);
	args[1] = CdpInt8Array(ids, n);
	args[2] = CdpTimestampArray(received, n);
	for (int c = 0; c < lengthof(attributes); c++)
		args[3 + c] = CdpVarlenaArray(columns[c], nulls[c], n, types[c]);
	CdpRunHere(&change_rows, args, NULL);
}

/*
 * Delete rows of the log, and what is known of them elsewhere.
 */
static void
write_deleted(List *deleted)
{
	int			n = list_length(deleted);
	int64	   *xids = palloc(sizeof(int64) * Max(n, 1));
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	TimestampTz *received = palloc(sizeof(TimestampTz) * Max(n, 1));
	Datum		args[3];
	ListCell   *lc;

	if (n == 0)
		return;
	n = 0;
	foreach(lc, deleted)
	{
		CdpEntry   *entry = &((CdpReadings *) lfirst(lc))->was;

		xids[n] = entry->xid;
		ids[n] = entry->id;
		received[n++] = entry->received_at;
	}
	args[0] = CdpInt8Array(xids, n);
	args[1] = CdpInt8Array(ids, n);
	args[2] = CdpTimestampArray(received, n);
	CdpRunHere(&delete_rows, args, NULL);
	args[0] = args[1];
	CdpRunHere(&forget_attached, args, NULL);
}

/*
 * What leads to these entries by their identifiers, and that they are rejected.
 */
static void
forget_ways(CdpBatch *batch, List *exchanged)
{
	int			max = 0;
	int			n = 0;
	int			nids = 0;
	int64	   *hashes;
	int64	   *entries;
	int64	   *ids = palloc(sizeof(int64) * Max(list_length(exchanged), 1));
	Datum		args[2];
	ListCell   *lc;

	foreach(lc, exchanged)
	{
		CdpEntry   *entry = &((CdpReadings *) lfirst(lc))->was;

		if (entry->identifiers != NULL)
			max += ArrayGetNItems(ARR_NDIM(entry->identifiers), ARR_DIMS(entry->identifiers));
	}
	hashes = palloc(sizeof(int64) * Max(max, 1));
	entries = palloc(sizeof(int64) * Max(max, 1));
	foreach(lc, exchanged)
	{
		CdpEntry   *entry = &((CdpReadings *) lfirst(lc))->was;
		int			count = CdpHistoryHashes(batch->kinds, entry, hashes + n);

		while (count-- > 0)
			entries[n++] = entry->id;
		ids[nids++] = entry->id;
	}
	if (exchanged == NIL)
		return;
	if (n > 0)
	{
		args[0] = CdpInt8Array(hashes, n);
		args[1] = CdpInt8Array(entries, n);
		CdpRunHere(&forget_history, args, NULL);
	}
	args[0] = CdpInt8Array(ids, nids);
	CdpRunHere(&forget_rejected, args, NULL);
}

/*
 * Identifiers that only these entries named, when they did not count, are known
 * as former ones.  Those that others name, or the same still, stay.
 */
static void
forget_names(List *exchanged)
{
	Datum	   *names;
	int64	   *hashes;
	int			max = 0;
	int			n = 0;
	Datum		args[2];
	ListCell   *lc;

	foreach(lc, exchanged)
		max += ((CdpReadings *) lfirst(lc))->was.ncandidates;
	if (max == 0)
		return;
	names = palloc(sizeof(Datum) * max);
	hashes = palloc(sizeof(int64) * max);
	foreach(lc, exchanged)
	{
		CdpEntry   *entry = &((CdpReadings *) lfirst(lc))->was;

		for (int i = 0; i < entry->ncandidates; i++)
		{
			CdpIdentifier *name = CdpGraphCandidate(entry, i);

			names[n] = PointerGetDatum(name);
			hashes[n++] = CdpIdentifierHash(name);
		}
	}
	args[0] = CdpVarlenaArray(names, NULL, n, TEXTOID);
	args[1] = CdpInt8Array(hashes, n);
	CdpRunHere(&forget_former, args, NULL);
}

/*
 * Look at a row of the log, as it was: it may stay (false), be changed, or go.
 * owned: it is known to be the person's.
 */
static bool
take_row(CdpErasureRows *rows, CdpReadings *reread, bool owned)
{
	CdpErasure	   *erasure = rows->erasure;
	Datum		values[CDP_EVENTS_NATTS];
	bool		isnull[CDP_EVENTS_NATTS];
	Fate		fate;

	memcpy(values, reread->was.values, sizeof(values));
	memcpy(isnull, reread->was.isnull, sizeof(isnull));
	(void) CdpEntryCheck(&reread->was);
	CdpGraphCheck(rows->batch->graph, &reread->was, 1);
	if (!owned)
		owned = CdpErasureOwns(erasure, &reread->was, false);
	fate = judge_row(rows, &reread->was, owned, values, isnull);
	if (fate == FATE_STAY)
		return false;
	if (fate == FATE_GO && owned && erasure->mode == CDP_ERASE_ANONYMISE &&
		!names_in_key(erasure, &reread->was) &&
		(reread->was.type == CDP_ENTRY_TRACK || reread->was.type == CDP_ENTRY_PAGE ||
		 reread->was.type == CDP_ENTRY_SCREEN || reread->was.type == CDP_ENTRY_GROUP ||
		 reread->was.type == CDP_ENTRY_LEAVE))
	{
		text	   *event;
		Jsonb	   *kept;

		fate = FATE_CHANGE;
		values[CDP_EVENTS_IDENTIFIERS] =
			PointerGetDatum(anonymous(rows, DatumGetArrayTypeP(values[CDP_EVENTS_IDENTIFIERS])));
		event = isnull[CDP_EVENTS_EVENT] ? NULL :
			CdpScrubText(erasure->scrubber, DatumGetTextPP(values[CDP_EVENTS_EVENT]));
		if (event != NULL)
			values[CDP_EVENTS_EVENT] = PointerGetDatum(event);
		kept = isnull[CDP_EVENTS_PROPERTIES] ? NULL :
			CdpAnonymiseJsonb(erasure->scrubber, DatumGetJsonbP(values[CDP_EVENTS_PROPERTIES]));
		if (kept != NULL)
			values[CDP_EVENTS_PROPERTIES] = JsonbPGetDatum(kept);
		isnull[CDP_EVENTS_CONTEXT] = true;
	}
	if (rows->expired && CdpErasureConsentOnly(rows, &reread->was, values, isnull))
		fate = FATE_CHANGE;
	if (fate == FATE_CHANGE)
		CdpEntryFromRow(&reread->is, values, isnull);
	rows->exchanged = lappend(rows->exchanged, reread);
	return true;
}

void
CdpErasureTakeRows(CdpErasureRows *rows, bool owned)
{
	for (uint64 first = 0; first < SPI_processed; first += READ_TOGETHER)
	{
		int			n = Min(SPI_processed - first, READ_TOGETHER);
		CdpReadings *readings[READ_TOGETHER];
		CdpEntry   *entries[READ_TOGETHER];

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
		{
			Datum		values[CDP_EVENTS_NATTS];
			bool		isnull[CDP_EVENTS_NATTS];

			heap_deform_tuple(SPI_tuptable->vals[first + i], SPI_tuptable->tupdesc, values, isnull);
			readings[i] = palloc0(sizeof(CdpReadings));
			entries[i] = &readings[i]->was;
			CdpEntryFromRow(entries[i], values, isnull);
		}
		CdpEntriesRead(entries, n);
		for (int i = 0; i < n; i++)
		{
			if (!take_row(rows, readings[i], owned))
				pfree(readings[i]);
		}
	}
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
}

/*
 * The copies of these messages that are to count now, as far as none of the
 * list is: those that do already are no news, and the person's own will go.
 */
static List *
other_copies(CdpErasureRows *rows, CdpReadings **list, int n)
{
	text	  **sources = palloc(sizeof(text *) * Max(n, 1));
	text	  **messages = palloc(sizeof(text *) * Max(n, 1));
	CdpReadings **copies;
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	int			nmessages = 0;
	int			ncopies = 0;
	List	   *found;
	List	   *changed = NIL;
	List	   *result = NIL;
	ListCell   *lc;

	for (int i = 0; i < n; i++)
	{
		ids[i] = list[i]->was.id;
		if (list[i]->was.message_id == NULL)
			continue;
		sources[nmessages] = list[i]->was.source;
		messages[nmessages++] = list[i]->was.message_id;
	}
	if (nmessages == 0)
		return NIL;
	found = CdpAppliedMessages(rows->batch, rows->applied, sources, messages, nmessages);
	copies = palloc(sizeof(CdpReadings *) * Max(list_length(found), 1));
	list_sort(found, by_number);
	foreach(lc, found)
	{
		CdpEntry   *copy = lfirst(lc);

		if (bsearch(&copy->id, ids, n, sizeof(int64), CdpCompareInt8) != NULL ||
			CdpErasureOwns(rows->erasure, copy, false))
			continue;
		copies[ncopies] = palloc0(sizeof(CdpReadings));
		copies[ncopies++]->was = *copy;
	}
	if (ncopies > 0)
		CdpFindCounting(copies, ncopies);
	for (int i = 0; i < ncopies; i++)
	{
		CdpEntry   *copy = &copies[i]->was;
		Datum		values[CDP_EVENTS_NATTS];
		Fate		fate;

		if (copies[i]->counted)
			continue;
		memcpy(values, copy->values, sizeof(values));
		fate = judge_row(rows, copy, false, values, copy->isnull);
		if (fate == FATE_GO)
			continue;			/* the sweep will come by */
		CdpEntryFromRow(&copies[i]->is, values, copy->isnull);
		if (fate == FATE_CHANGE)
			changed = lappend(changed, copies[i]);
		result = lappend(result, &copies[i]->is);
	}
	write_changed(changed);
	forget_ways(rows->batch, changed);
	return result;
}

void
CdpErasureWrite(CdpBatch *batch)
{
	CdpProfilesCollect(batch);
	for (int i = 0; i < batch->nprofiles; i++)
		if (batch->profiles[i]->cause == CDP_CAUSE_ENTRY ||
			batch->profiles[i]->cause == CDP_CAUSE_RETRACTION)
			batch->profiles[i]->cause = CDP_CAUSE_ERASURE;
	CdpBatchWrite(batch);
}

/*
 * Write the rows, and exchange what they did for what they do; entries that have
 * not been applied do nothing so far.  Then the batch is to be written.
 */
void
CdpErasureExchange(CdpErasureRows *rows)
{
	CdpBatch   *batch = rows->batch;
	List	   *deleted = NIL;
	List	   *changed = NIL;
	List	   *applied = NIL;
	List	   *copies;
	CdpReadings **list;
	int64		rejected = batch->applier.rejected;
	int64		duplicates = batch->applier.duplicates;
	int			n = 0;
	ListCell   *lc;

	list_sort(rows->exchanged, by_entry);
	foreach(lc, rows->exchanged)
	{
		CdpReadings *reread = lfirst(lc);

		if (reread->is.id == 0)
			deleted = lappend(deleted, reread);
		else
			changed = lappend(changed, reread);
		if (CdpCursorsApplied(rows->applied, reread->was.incarnation, reread->was.xid,
							  reread->was.id))
			applied = lappend(applied, reread);
	}
	write_changed(changed);
	write_deleted(deleted);
	CdpErasureCount(rows->erasure, "log entries deleted", list_length(deleted));
	CdpErasureCount(rows->erasure, "log entries changed", list_length(changed));

	list = palloc(sizeof(CdpReadings *) * Max(list_length(applied), 1));
	foreach(lc, applied)
		list[n++] = lfirst(lc);
	if (n > 0)
	{
		forget_ways(batch, applied);
		CdpFindCounting(list, n);
	}
	batch->erasing = true;
	batch->rereading = true;
	copies = other_copies(rows, list, n);
	batch->entries = palloc0(sizeof(CdpEntry) * Max(n + list_length(copies), 1));
	batch->nentries = 0;
	batch->removed = palloc(sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		if (list[i]->is.id == 0 && list[i]->was.naccounts > 0)
			batch->removed[batch->nremoved++] = list[i]->was.id;
		if (list[i]->counted)
		{
			/* it has added what a tracking plan left of it */
			CdpGraphReadProperties(batch->graph->reading, batch->graph->reading_arg, &list[i]->was, 1);
			batch->reread = lappend(batch->reread, &list[i]->was);
		}
		else if (CDP_ENTRY_DECIDES(list[i]->was.type))
			batch->graph->withdrawn = lappend(batch->graph->withdrawn, &list[i]->was.id);
		if (list[i]->is.id != 0)
			batch->entries[batch->nentries++] = list[i]->is;
	}
	foreach(lc, copies)
		batch->entries[batch->nentries++] = *(CdpEntry *) lfirst(lc);
	if (batch->nentries == 0 && batch->reread == NIL && batch->nemptied == 0 &&
		batch->nremoved == 0 && batch->graph->withdrawn == NIL)
	{
		forget_names(rows->exchanged);
		return;
	}
	CdpBatchFold(batch, rows->applied);

	/* they were counted when they came */
	batch->applier.entries -= batch->nread;
	batch->applier.rejected = rejected;
	batch->applier.duplicates = duplicates;
	batch->nread = 0;

	CdpErasureWrite(batch);
	forget_names(rows->exchanged);
}
