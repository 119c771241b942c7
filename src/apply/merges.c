/*-------------------------------------------------------------------------
 *
 * merges.c
 *	  What is announced about profiles that become one, or several.
 *
 *	  A change of kind profile_merged lists every profile id that was ever
 *	  merged into the one that remains, so that a subscriber who missed what
 *	  was before needs nothing else.  For that, cdp.merged_profiles has a row
 *	  for each id that was a profile and stands for another one now.  It does
 *	  not say which: the node of that number does.
 *
 * IDENTIFICATION
 *	  src/apply/merges.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "apply/batch.h"
#include "statement.h"

/*
 * Above so many identifiers a change lists only the ids that it is about, and so
 * many of them: what a million profiles have become is told by many changes.
 */
#define MAX_LISTED	1000

/* An id that stands for another profile now. */
typedef struct Merged
{
	int64		id;
	TimestampTz created_at;
	TimestampTz merged_at;
	text	   *source;			/* of the entry that did it; NULL: unknown */
	text	   *message_id;
} Merged;

/* The entry that joined a former profile with others; hash entry. */
typedef struct Joint
{
	int64		profile;		/* hash key */
	CdpLink    *link;
	bool		in_batch;
	TimestampTz created_at;		/* of the former profile */
} Joint;

/* The entries of the batch, by number. */
typedef struct Batched
{
	int			n;
	CdpEntry  **entries;
	const CdpEntry *again;		/* from here on they count again, because of an undo */
	CdpEntry   *undo;			/* the only one of the batch, or NULL */
	List	   *turned;			/* CdpEntry *: those that undos took out or let count again */
	List	   *parted;			/* CdpEntry *: splits and detachments by hand that have come */
} Batched;

static CdpStatement load_merged = {
	"SELECT m.profile_id, m.created_at, m.merged_at, m.source, m.message_id"
	" FROM (SELECT unnest($1) AS id) AS u"
	" JOIN cdp.merged_profiles m ON m.profile_id = u.id"
	" ORDER BY m.profile_id",
	{"int8[]"},
	"merged_profiles"
};

static CdpStatement upsert_merged = {
	"INSERT INTO cdp.merged_profiles AS m (profile_id, created_at, merged_at, source, message_id)"
	" SELECT DISTINCT ON (1) unnest($1), unnest($2), $3, unnest($4), unnest($5)"
	" ON CONFLICT (profile_id) DO UPDATE SET created_at = excluded.created_at,"
	" merged_at = excluded.merged_at, source = excluded.source,"
	" message_id = excluded.message_id",
	{"int8[]", "timestamptz[]", "timestamptz", "text[]", "text[]"}
};

static CdpStatement delete_merged = {
	"DELETE FROM cdp.merged_profiles m USING unnest($1) AS u (id) WHERE m.profile_id = u.id",
	{"int8[]"}
};

static void
append_time(StringInfo buf, TimestampTz at)
{
	char		iso[MAXDATELEN + 1];

	JsonEncodeDateTime(iso, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL);
	escape_json(buf, iso);
}

static void
append_text(StringInfo buf, const text *value)
{
	if (value == NULL)
		appendStringInfoString(buf, "null");
	else
		escape_json(buf, text_to_cstring(value));
}

static void
append_detail(StringInfo buf, const Merged *merged, const char *when)
{
	appendStringInfo(buf, "{\"profile_id\": %lld, \"created_at\": ", (long long) merged->id);
	append_time(buf, merged->created_at);
	appendStringInfo(buf, ", \"%s\": ", when);
	append_time(buf, merged->merged_at);
	appendStringInfoString(buf, ", \"source\": ");
	append_text(buf, merged->source);
	appendStringInfoString(buf, ", \"triggering_event_id\": ");
	append_text(buf, merged->message_id);
	appendStringInfoChar(buf, '}');
}

/* An entry of the batch, to be found by its number. */
static int
entry_order(const void *a, const void *b)
{
	int64		x = (*(CdpEntry *const *) a)->id;
	int64		y = (*(CdpEntry *const *) b)->id;

	return x < y ? -1 : x > y ? 1 : 0;
}

static CdpEntry *
entry_of(const Batched *batched, int64 id)
{
	CdpEntry	key;
	CdpEntry   *pointer = &key;
	CdpEntry  **found;

	key.id = id;
	found = bsearch(&pointer, batched->entries, batched->n, sizeof(CdpEntry *), entry_order);
	return found == NULL ? NULL : *found;
}

/*
 * What the undos of the batch took out and let count again: entries of earlier
 * batches (list of CdpEntry *).
 */
static List *
turned_entries(CdpBatch *batch)
{
	List	   *turned = list_copy(batch->undone);
	int			i;

	/* history that is read anew is not counted as read */
	for (i = batch->nread > 0 ? batch->nread : batch->nentries; i < batch->nentries; i++)
		turned = lappend(turned, &batch->entries[i]);
	return turned;
}

static void
index_entries(CdpBatch *batch, Batched *batched)
{
	int			nundos = 0;
	int			i;

	batched->n = batch->nentries;
	batched->entries = palloc(sizeof(CdpEntry *) * Max(batched->n, 1));
	batched->again = batch->entries + (batch->nread > 0 ? batch->nread : batch->nentries);
	batched->undo = NULL;
	batched->turned = turned_entries(batch);
	batched->parted = NIL;
	for (i = 0; i < batched->n; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		batched->entries[i] = entry;
		if (!batch->counts[i])
			continue;
		if (entry->type == CDP_ENTRY_UNDO)
		{
			batched->undo = entry;
			nundos++;
		}
		else if ((entry->type == CDP_ENTRY_SPLIT || entry->type == CDP_ENTRY_DETACH) &&
				 entry < batched->again)
			batched->parted = lappend(batched->parted, entry);
	}
	if (nundos != 1)
		batched->undo = NULL;
	qsort(batched->entries, batched->n, sizeof(CdpEntry *), entry_order);
}

/* The entry, if this batch is the first one in which it counts; NULL: another one. */
static CdpEntry *
new_entry(const Batched *batched, int64 id)
{
	CdpEntry   *entry = entry_of(batched, id);

	return entry != NULL && entry < batched->again ? entry : NULL;
}

/*
 * When the profile that has this id was first seen: by those of its nodes that
 * had the id before.  Of a very large profile the node of that number answers.
 */
static TimestampTz
created_at(CdpBatch *batch, const CdpProfile *profile, int64 id)
{
	TimestampTz result = DT_NOEND;
	TimestampTz any = DT_NOEND;
	CdpNode    *node = profile->ring;

	if (profile->n > MAX_LISTED)
		return CdpGraphNode(batch->graph, profile->id)->first_seen;
	do
	{
		any = Min(any, node->first_seen);
		if (node->old_profile == id)
			result = Min(result, node->first_seen);
		node = node->next;
	} while (node != profile->ring);
	return result != DT_NOEND ? result : any;
}

/*
 * Is one of these entries (list of CdpEntry *) about an end of the link, or the
 * profile that it was part of?  A message that names one identifier joins nobody,
 * nor keeps anybody apart.
 */
static bool
touch(CdpBatch *batch, List *entries, const CdpLink *link)
{
	ListCell   *lc;
	int			i;

	foreach(lc, entries)
	{
		CdpEntry   *entry = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (entry->nnodes < 2 && !CDP_ENTRY_DECIDES(entry->type))
			continue;
		for (i = 0; i < entry->nnodes; i++)
		{
			CdpNode    *node = CdpGraphNode(batch->graph, entry->nodes[i]);

			if (node == NULL)
				continue;
			if (node == link->a || node == link->b ||
				(node->old_profile != 0 &&
				 (node->old_profile == link->a->old_profile ||
				  node->old_profile == link->b->old_profile)))
				return true;
		}
	}
	return false;
}

/*
 * Is it certain that the only undo of the batch made the link join two profiles?
 * Either what the link rests on counts again, or what the undo has turned was about
 * these profiles, and no decision of this batch parts them from others.
 */
static bool
undo_joined(CdpBatch *batch, const Batched *batched, const CdpLink *link)
{
	CdpEntry   *entry = entry_of(batched, link->entry);

	if (batched->undo == NULL || (entry != NULL && entry < batched->again))
		return false;
	return entry != NULL ||
		(touch(batch, batched->turned, link) && !touch(batch, batched->parted, link));
}

/*
 * Which entry joined what the link joins?  The one that it rests on, or the undo
 * by which that counts again or is heeded again.
 */
static void
name_entry(CdpBatch *batch, const Batched *batched, const CdpLink *link, text **source,
		   text **message_id)
{
	const char *tie = VARDATA_ANY(link->tie);
	int			len = VARSIZE_ANY_EXHDR(link->tie);
	const char *middle;
	CdpEntry   *entry = entry_of(batched, link->entry);

	if (undo_joined(batch, batched, link))
		entry = batched->undo;
	if (entry != NULL)
	{
		*source = entry->source;
		*message_id = CdpEntryMessageId(entry);
		return;
	}
	/* one that was applied before; the tie has both parts */
	middle = memchr(tie, '\001', len);
	*source = cstring_to_text_with_len(tie, middle - tie);
	*message_id = cstring_to_text_with_len(middle + 1, len - (middle + 1 - tie));
	if (strcmp(text_to_cstring(*message_id),
			   psprintf("#%019lld", (long long) link->entry)) == 0)
		*message_id = cstring_to_text(psprintf("#%lld", (long long) link->entry));
}

/*
 * For each former profile the evidence that joins it with something else: of
 * what this batch has brought or admitted the first, entries of the batch
 * before others.
 */
static void
find_joints(CdpBatch *batch, const Batched *batched, HTAB *absorbed)
{
	CdpLink   **links;
	int			n;
	int			i,
				j;

	links = CdpGraphLinks(batch->graph, &n);
	for (i = 0; i < n; i++)
	{
		CdpLink    *link = links[i];

		CHECK_FOR_INTERRUPTS();
		if (link->gone || link->status != 'a' ||
			!(link->changed || link->manual) ||
			link->a->old_profile == link->b->old_profile)
			continue;
		for (j = 0; j < 2; j++)
		{
			int64		id = j == 0 ? link->a->old_profile : link->b->old_profile;
			Joint	   *joint = hash_search(absorbed, &id, HASH_FIND, NULL);
			bool		in_batch;

			if (joint == NULL)
				continue;
			in_batch = new_entry(batched, link->entry) != NULL;
			if (joint->link != NULL &&
				(joint->in_batch > in_batch ||
				 (joint->in_batch == in_batch &&
				  CdpLinkOrder(&joint->link, &link) < 0)))
				continue;
			joint->link = link;
			joint->in_batch = in_batch;
		}
	}
	pfree(links);

	/* all nodes of an absorbed profile take part */
	for (i = 0; i < batch->graph->nactive; i++)
	{
		CdpNode    *node = batch->graph->active[i];
		Joint	   *joint;

		if (node->is_gone || node->old_profile == 0 || node->profile == node->old_profile)
			continue;
		joint = hash_search(absorbed, &node->old_profile, HASH_FIND, NULL);
		if (joint != NULL)
			joint->created_at = Min(joint->created_at, node->first_seen);
	}
}

static int
by_id(const void *a, const void *b)
{
	const Merged *x = a;
	const Merged *y = b;

	return x->id < y->id ? -1 : x->id > y->id ? 1 : 0;
}

/* Can the node's number be one that was merged into the profile before? */
static bool
merged_earlier(const CdpProfile *profile, const CdpNode *node)
{
	/* who was a profile until now has no row */
	return !node->is_new && !node->is_gone && node->id != profile->id &&
		node->old_profile != node->id;
}

/*
 * The ids that were merged by earlier batches into the profiles that these
 * merges (list of CdpMerge *) are about, in order.
 */
static int
load_earlier(List *merges, Merged **result)
{
	int64	   *ids;
	int			max = 0;
	int			nids = 0;
	int			n;
	int			i;
	ListCell   *lc;
	Datum		arg;

	*result = NULL;
	foreach(lc, merges)
	{
		CdpProfile *profile = ((CdpMerge *) lfirst(lc))->profile;

		if (profile->n <= MAX_LISTED)
			max += profile->n;
	}
	ids = palloc_array(int64, Max(max, 1));
	foreach(lc, merges)
	{
		CdpProfile *profile = ((CdpMerge *) lfirst(lc))->profile;
		CdpNode    *node = profile->ring;

		if (profile->n > MAX_LISTED)
			continue;
		do
		{
			if (merged_earlier(profile, node))
				ids[nids++] = node->id;
			node = node->next;
		} while (node != profile->ring);
	}
	if (nids == 0)
		return 0;
	arg = CdpInt8Array(ids, nids);
	n = CdpRun(&load_merged, &arg, NULL);
	*result = palloc_array(Merged, Max(n, 1));
	for (i = 0; i < n; i++)
	{
		Merged	   *merged = &(*result)[i];

		merged->id = CdpCellInt8(i, 1);
		merged->created_at = CdpCellInt8(i, 2);
		merged->merged_at = CdpCellInt8(i, 3);
		merged->source = CdpCellVarlena(i, 4, CurrentMemoryContext);
		merged->message_id = CdpCellVarlena(i, 5, CurrentMemoryContext);
	}
	SPI_freetuptable(SPI_tuptable);
	pfree(ids);
	return n;
}

/*
 * Those of earlier that were merged into this profile, except those that are
 * merged now.
 */
static int
pick_earlier(const CdpProfile *profile, const Merged *earlier, int nearlier,
			 const Merged *now, int nnow, Merged *result)
{
	CdpNode    *node = profile->ring;
	int			n = 0;

	do
	{
		if (merged_earlier(profile, node))
		{
			Merged		key = {.id = node->id};
			const Merged *found = nearlier == 0 ? NULL :
				bsearch(&key, earlier, nearlier, sizeof(Merged), by_id);

			if (found != NULL && bsearch(&key, now, nnow, sizeof(Merged), by_id) == NULL)
				result[n++] = *found;
		}
		node = node->next;
	} while (node != profile->ring);
	return n;
}

/*
 * What profile_merged says.
 */
static Jsonb *
merge_payload(CdpBatch *batch, const CdpProfile *profile, const Merged *earlier, int nearlier,
			  const Merged *now, int nnow)
{
	bool		partial = profile->n > MAX_LISTED;
	Merged	   *all = palloc_array(Merged, nnow + (partial ? 0 : profile->n));
	int			n = 0;
	StringInfoData buf;
	int			i;

	if (!partial)
		n = pick_earlier(profile, earlier, nearlier, now, nnow, all);
	memcpy(all + n, now, sizeof(Merged) * nnow);
	n += nnow;
	qsort(all, n, sizeof(Merged), by_id);

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"profile_id\": %lld, \"created_at\": ", (long long) profile->id);
	append_time(&buf, created_at(batch, profile, profile->id));
	appendStringInfoString(&buf, ", \"merges\": [");
	for (i = 0; i < n; i++)
		appendStringInfo(&buf, "%s%lld", i > 0 ? ", " : "", (long long) all[i].id);
	appendStringInfoString(&buf, "], \"merged\": [");
	for (i = 0; i < n; i++)
	{
		if (i > 0)
			appendStringInfoString(&buf, ", ");
		append_detail(&buf, &all[i], "merged_at");
	}
	appendStringInfo(&buf, "]%s}", partial ? ", \"partial\": true" : "");
	pfree(all);
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

static CdpChange *
identity_change(CdpBatch *batch, const char *kind, int64 profile, CdpCause cause)
{
	CdpChange  *change = CdpChangeAdd(&batch->changes);

	change->kind = kind;
	change->profile_id = profile;
	change->cause = cause;
	change->occurred_at = batch->applier.clock;
	return change;
}

/*
 * Announce that, with a payload that was made in scratch memory, which is emptied: to
 * read JSON takes many times what comes of it.
 */
static void
announce(CdpBatch *batch, const char *kind, int64 profile, CdpCause cause, const Jsonb *payload,
		 MemoryContext scratch)
{
	identity_change(batch, kind, profile, cause)->payload =
		memcpy(palloc(VARSIZE(payload)), payload, VARSIZE(payload));
	MemoryContextReset(scratch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Announce the merges of a batch (list of CdpMerge *), and remember who is
 * absorbed now.
 */
void
CdpMergesAnnounce(CdpBatch *batch, List *merges)
{
	HASHCTL		ctl;
	HTAB	   *joints;
	Batched		batched;
	ListCell   *lc,
			   *lc2;
	int			max = 0;
	int			n = 0;
	int			nearlier;
	Merged	   *earlier;
	int64	   *ids;
	TimestampTz *created;
	Datum	   *sources,
			   *messages;
	bool	   *unknown;
	Datum		args[5];
	MemoryContext scratch;

	if (merges == NIL)
		return;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp payload", ALLOCSET_DEFAULT_SIZES);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Joint);
	ctl.hcxt = CurrentMemoryContext;
	joints = hash_create("cdp joints", 64, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(lc, merges)
	{
		CdpMerge   *merge = lfirst(lc);

		foreach(lc2, merge->absorbed)
		{
			bool		found;
			Joint	   *joint = hash_search(joints, lfirst(lc2), HASH_ENTER, &found);

			joint->link = NULL;
			joint->in_batch = false;
			joint->created_at = DT_NOEND;
			max++;
		}
	}
	index_entries(batch, &batched);
	find_joints(batch, &batched, joints);
	nearlier = load_earlier(merges, &earlier);

	ids = palloc(sizeof(int64) * max);
	created = palloc(sizeof(TimestampTz) * max);
	sources = palloc(sizeof(Datum) * max);
	messages = palloc(sizeof(Datum) * max);
	unknown = palloc(sizeof(bool) * max);
	foreach(lc, merges)
	{
		CdpMerge   *merge = lfirst(lc);
		Merged	   *now = palloc0(sizeof(Merged) * list_length(merge->absorbed));
		int			nnow = 0;

		foreach(lc2, merge->absorbed)
		{
			Merged	   *merged = &now[nnow++];
			Joint	   *joint = hash_search(joints, lfirst(lc2), HASH_FIND, NULL);

			merged->id = *(int64 *) lfirst(lc2);
			merged->created_at = joint->created_at;
			merged->merged_at = batch->applier.clock;
			if (joint->link != NULL)
				name_entry(batch, &batched, joint->link, &merged->source, &merged->message_id);
			ids[n] = merged->id;
			created[n] = merged->created_at;
			unknown[n] = merged->source == NULL;
			sources[n] = PointerGetDatum(merged->source);
			messages[n++] = PointerGetDatum(merged->message_id);
		}
		qsort(now, nnow, sizeof(Merged), by_id);
		/* more than MAX_LISTED are merged into a profile that has more identifiers */
		for (int told = 0; told < nnow; told += MAX_LISTED)
		{
			MemoryContext old = MemoryContextSwitchTo(scratch);
			Jsonb	   *payload = merge_payload(batch, merge->profile, earlier, nearlier,
												now + told, Min(nnow - told, MAX_LISTED));

			MemoryContextSwitchTo(old);
			announce(batch, "profile_merged", merge->profile->id, CDP_CAUSE_MERGE, payload, scratch);
		}
		pfree(now);
	}
	args[0] = CdpInt8Array(ids, n);
	args[1] = CdpTimestampArray(created, n);
	args[2] = TimestampTzGetDatum(batch->applier.clock);
	args[3] = CdpVarlenaArray(sources, unknown, n, TEXTOID);
	args[4] = CdpVarlenaArray(messages, unknown, n, TEXTOID);
	CdpRun(&upsert_merged, args, NULL);
	hash_destroy(joints);
	MemoryContextDelete(scratch);
}

/*
 * These ids (array of int64) stand for themselves again, or for nobody.
 */
void
CdpMergesForget(const int64 *ids, int n)
{
	Datum		arg;

	if (n == 0)
		return;
	arg = CdpInt8Array(ids, n);
	CdpRun(&delete_merged, &arg, NULL);
}

/* What the entries of a batch may have done to a profile; hash entry. */
typedef struct Parting
{
	int64		profile;		/* hash key */
	CdpEntry   *decision;		/* the latest split or detachment by hand that names it */
	CdpEntry   *other;			/* the last other entry that does */
	int			nothers;
	bool		turned;			/* an undo took out what names it, or let it count again */
} Parting;

struct CdpPartings
{
	HTAB	   *profiles;
	CdpEntry   *undo;
	int			nundos;
};

/*
 * The former profile of a node that an entry names; NULL when it had none.
 */
static Parting *
find_parting(CdpBatch *batch, CdpPartings *partings, int64 id)
{
	CdpNode    *node = CdpGraphNode(batch->graph, id);
	Parting    *parting;
	bool		found;

	if (node == NULL || node->old_profile == 0)
		return NULL;
	parting = hash_search(partings->profiles, &node->old_profile, HASH_ENTER, &found);
	if (!found)
	{
		parting->decision = parting->other = NULL;
		parting->nothers = 0;
		parting->turned = false;
	}
	return parting;
}

/*
 * Which profiles do the entries of the batch name, as they were before?
 */
CdpPartings *
CdpPartingsFind(CdpBatch *batch)
{
	CdpPartings *partings = palloc0(sizeof(CdpPartings));
	HASHCTL		ctl;
	ListCell   *lc;
	Parting    *parting;
	int			i,
				j;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Parting);
	ctl.hcxt = CurrentMemoryContext;
	partings->profiles = hash_create("cdp partings", 64, &ctl,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (i = 0; i < batch->nentries; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		CHECK_FOR_INTERRUPTS();
		if (!batch->counts[i])
			continue;
		if (entry->type == CDP_ENTRY_UNDO)
		{
			partings->undo = entry;
			partings->nundos++;
			continue;
		}
		for (j = 0; j < entry->nnodes; j++)
		{
			parting = find_parting(batch, partings, entry->nodes[j]);
			if (parting == NULL)
				continue;
			if (entry->type == CDP_ENTRY_SPLIT || entry->type == CDP_ENTRY_DETACH)
			{
				if (parting->decision == NULL || CdpEntryCompare(entry, parting->decision) > 0)
					parting->decision = entry;
			}
			else if (parting->other != entry)
			{
				parting->other = entry;
				parting->nothers++;
			}
		}
	}
	foreach(lc, turned_entries(batch))
	{
		CdpEntry   *entry = lfirst(lc);

		for (j = 0; j < entry->nnodes; j++)
		{
			parting = find_parting(batch, partings, entry->nodes[j]);
			if (parting != NULL)
				parting->turned = true;
		}
	}
	return partings;
}

/*
 * The entry that parted a profile: a split or detachment by hand that names
 * it, else the only undo of the batch if it turned what names it, else the
 * only other entry that names it; NULL when that leaves a choice.
 */
static CdpEntry *
parting_entry(CdpPartings *partings, int64 profile)
{
	Parting    *parting = hash_search(partings->profiles, &profile, HASH_FIND, NULL);

	if (parting == NULL)
		return NULL;
	if (parting->decision != NULL)
		return parting->decision;
	if (parting->turned)
		return partings->nundos == 1 ? partings->undo : NULL;
	return parting->nothers == 1 ? parting->other : NULL;
}

/*
 * What profile_split says: of these, which are all or a part of them.
 */
static Jsonb *
split_payload(CdpBatch *batch, const CdpEntry *entry, int64 profile, const int64 *into, int n,
			  bool partial)
{
	StringInfoData buf;
	int			i;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"profile_id\": %lld, \"into\": [", (long long) profile);
	for (i = 0; i < n; i++)
		appendStringInfo(&buf, "%s%lld", i > 0 ? ", " : "", (long long) into[i]);
	appendStringInfoString(&buf, "], \"parts\": [");
	for (i = 0; i < n; i++)
	{
		Merged		part = {.id = into[i], .merged_at = batch->applier.clock};

		part.created_at = created_at(batch, CdpProfileOf(batch, part.id), profile);
		if (entry != NULL)
		{
			part.source = entry->source;
			part.message_id = CdpEntryMessageId(entry);
		}
		if (i > 0)
			appendStringInfoString(&buf, ", ");
		append_detail(&buf, &part, "split_at");
	}
	appendStringInfo(&buf, "]%s}", partial ? ", \"partial\": true" : "");
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

/*
 * Announce that a profile fell into several, whose ids are in order.
 */
void
CdpSplitAnnounce(CdpBatch *batch, CdpPartings *partings, int64 profile, const int64 *into, int n)
{
	CdpEntry   *entry = parting_entry(partings, profile);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp payload",
												  ALLOCSET_DEFAULT_SIZES);

	for (int told = 0; told < n; told += MAX_LISTED)
	{
		MemoryContext old = MemoryContextSwitchTo(scratch);
		Jsonb	   *payload = split_payload(batch, entry, profile, into + told,
											Min(n - told, MAX_LISTED), n > MAX_LISTED);

		MemoryContextSwitchTo(old);
		announce(batch, "profile_split", profile, CDP_CAUSE_SPLIT, payload, scratch);
	}
	MemoryContextDelete(scratch);
}
