/*-------------------------------------------------------------------------
 *
 * evaluate.c
 *	  Profiles as a batch leaves them: values, segments, timers, and what
 *	  changed.
 *
 *	  Changes are differences between the ends of batches.  The segments that
 *	  a profile was in stand on the row of the node that has its number; a
 *	  profile that is absorbed leaves them all, a part that splits off starts
 *	  with none.
 *
 * IDENTIFICATION
 *	  src/apply/evaluate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "apply/batch.h"
#include "statement.h"

/* in the order of the table, so that a new row goes into it as it is */
static CdpStatement enter_segments = {
	"INSERT INTO cdp.segment_members AS m"
	" (segment_id, profile_id, member, entered_at, entries)"
	" SELECT g.segment_id, g.profile_id, g.member, g.at, g.entries FROM given g"
	" ON CONFLICT (segment_id, profile_id) DO UPDATE SET member = true,"
	" entered_at = excluded.entered_at, entries = m.entries + 1"
	" RETURNING m.segment_id, m.profile_id, m.entries",
	.given = {{"segment_id", "int4"}, {"profile_id", "int8"}, {"member", "bool"},
	{"at", "timestamptz"}, {"entries", "int4"}}
};

/* the same of profiles that were never in any */
static CdpStatement enter_first = {
	"INSERT INTO cdp.segment_members (segment_id, profile_id, member, entered_at, entries)"
	" SELECT g.* FROM given g",
	.given = {{"segment_id", "int4"}, {"profile_id", "int8"}, {"member", "bool"},
	{"at", "timestamptz"}, {"entries", "int4"}}
};

static CdpStatement leave_segments = {
	"UPDATE cdp.segment_members m SET member = false"
	" FROM given g"
	" WHERE m.segment_id = g.segment_id AND m.profile_id = g.profile_id",
	.given = {{"segment_id", "int4"}, {"profile_id", "int8"}}
};

/*
 * The states of a large profile as those of one node: what was combined
 * before, and what came with this batch.
 */
static CdpNodeAcc *
combined_state(CdpBatch *batch, CdpNode *root)
{
	CdpNodeAcc *acc = CdpNodeOpen(batch->traits, root->combined);
	MemoryContext chunk;
	MemoryContext old;
	CdpNode    *member = root;
	ListCell   *lc;
	int			n = 0;

	if (root->combined != NULL)
	{
		if (root->delta != NULL)
			CdpNodeCombine(acc, root->delta);
		foreach(lc, root->uncombined)
		{
			member = lfirst(lc);
			if (member->batch != batch->graph->batch)
				CdpNodeCombine(acc, CdpNodeOpen(batch->traits, member->state));
			else
			{
				if (member->acc == NULL)
					member->acc = CdpNodeOpen(batch->traits, member->state);
				CdpNodeCombine(acc, member->acc);
			}
		}
		root->new_combined = CdpNodeClose(acc, batch->applier.clock);
		return acc;
	}

	/* from all members; in pieces, so that not all of them are open at once */
	chunk = AllocSetContextCreate(CurrentMemoryContext, "cdp combination",
								  ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(chunk);
	acc = CdpNodeOpen(batch->traits, NULL);
	do
	{
		bool		open = member->batch == batch->graph->batch && member->acc != NULL;

		CdpNodeCombine(acc, open ? member->acc : CdpNodeOpen(batch->traits, member->state));
		member = member->next;
		if (++n % 1000 == 0)
		{
			struct varlena *closed;

			CHECK_FOR_INTERRUPTS();
			MemoryContextSwitchTo(old);
			closed = CdpNodeClose(acc, batch->applier.clock);
			MemoryContextReset(chunk);
			MemoryContextSwitchTo(chunk);
			acc = CdpNodeOpen(batch->traits, closed);
		}
	} while (member != root);
	MemoryContextSwitchTo(old);
	root->new_combined = CdpNodeClose(acc, batch->applier.clock);
	MemoryContextDelete(chunk);
	return CdpNodeOpen(batch->traits, root->new_combined);
}

/*
 * The states of a profile's nodes, opened; those of a large one together.
 */
static CdpNodeAcc **
open_states(CdpBatch *batch, CdpProfile *profile, int *n)
{
	CdpNodeAcc **accs = palloc(sizeof(CdpNodeAcc *) * Min(profile->n, CDP_LARGE_PROFILE));
	CdpNode    *node = profile->ring;

	*n = 0;
	if (profile->n > CDP_LARGE_PROFILE)
	{
		accs[(*n)++] = combined_state(batch, CdpNodeRoot(node));
		return accs;
	}
	do
	{
		if (node->acc == NULL)
			node->acc = CdpNodeOpen(batch->traits, node->state);
		accs[(*n)++] = node->acc;
		node = node->next;
	} while (node != profile->ring);
	return accs;
}

void
CdpPassageAdd(CdpBatch *batch, CdpPassage *passages, int *n, CdpSegment *segment,
			  int64 profile, bool enters, CdpCause cause, TimestampTz at)
{
	passages[*n].change = -1;
	passages[*n].first = false;
	if (!segment->hidden)
	{
		CdpChange  *change = CdpChangeAdd(&batch->changes);

		change->kind = enters ? "segment_entered" : "segment_exited";
		change->profile_id = profile;
		change->segment = segment;
		change->cause = cause;
		change->occurred_at = at;
		passages[*n].change = batch->changes.n - 1;
	}
	passages[*n].segment = segment->id;
	passages[*n].profile = profile;
	passages[*n].at = at;
	(*n)++;
}

/*
 * What segment_entered says: how often the profile has entered.
 */
static Jsonb *
entry_payload(int32 number)
{
	JsonbParseState *state = NULL;
	JsonbValue	key;
	JsonbValue	value;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	key.type = jbvString;
	key.val.string.val = "entry_number";
	key.val.string.len = strlen("entry_number");
	pushJsonbValue(&state, WJB_KEY, &key);
	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(number);
	pushJsonbValue(&state, WJB_VALUE, &value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
add_passage(CdpGiven *given, CdpPassage *passage)
{
	Datum		values[5];
	bool		isnull[5] = {false};

	values[0] = Int32GetDatum(passage->segment);
	values[1] = Int64GetDatum(passage->profile);
	values[2] = BoolGetDatum(true);
	values[3] = TimestampTzGetDatum(passage->at);
	values[4] = Int32GetDatum(1);
	CdpGiveRow(given, values, isnull);
}

/*
 * The payload of an entry's change; most enter for the first time.
 */
static void
number_passage(CdpBatch *batch, CdpPassage *passage, int32 number, Jsonb **payloads,
			   int npayloads)
{
	Jsonb	   *payload;

	if (passage->change < 0)
		return;
	if (number < 1 || number > npayloads)
		payload = entry_payload(number);
	else
	{
		if (payloads[number - 1] == NULL)
			payloads[number - 1] = entry_payload(number);
		payload = payloads[number - 1];
	}
	batch->changes.items[passage->change].payload = payload;
}

/*
 * Write passages; those that enter learn how often the profile has entered.
 */
void
CdpPassagesWrite(CdpBatch *batch, CdpPassage *entered, int nentered,
				 CdpPassage *left, int nleft)
{
	Jsonb	   *payloads[8] = {NULL};
	CdpGiven   *given = CdpGive(&leave_segments);
	CdpGiven   *first = CdpGive(&enter_first);
	int			nagain = 0;
	int			row = 0;
	int			i;

	for (i = 0; i < nleft; i++)
		add_passage(given, &left[i]);
	(void) CdpRunGiven(given, NULL, NULL);

	given = CdpGive(&enter_segments);
	for (i = 0; i < nentered; i++)
	{
		add_passage(entered[i].first ? first : given, &entered[i]);
		if (entered[i].first)
			number_passage(batch, &entered[i], 1, payloads, lengthof(payloads));
		else
			nagain++;
	}
	(void) CdpRunGiven(first, NULL, NULL);
	if (nagain == 0)
		return;

	(void) CdpRunGiven(given, NULL, NULL);
	if (SPI_processed != nagain)
		elog(ERROR, "unexpected number of memberships");
	/* rows come back in the order in which they went in */
	for (i = 0; i < nentered; i++)
	{
		bool		isnull;

		if (entered[i].first)
			continue;
		Assert(CdpCellInt8(row, 2) == entered[i].profile);
		number_passage(batch, &entered[i], DatumGetInt32(CdpCell(row, 3, &isnull)),
					   payloads, lengthof(payloads));
		row++;
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * trait_changed for the traits that ask for it: what the profile's value was
 * at the end of the batch before, and what it is now.
 */
static void
announce_traits(CdpBatch *batch, CdpProfile *profile, CdpProfileValues *now)
{
	CdpTraitSet *set = batch->traits;
	CdpNode    *root = CdpNodeRoot(profile->ring);
	CdpProfileValues then;
	CdpNodeAcc **accs;
	int			max = 0;
	int			n = 0;
	int			i;

	/* the profile as it was: the nodes that had its id, as their rows are */
	if (!profile->moved || profile->n > CDP_LARGE_PROFILE)
		max = profile->n;
	else
		max = batch->graph->nactive;
	accs = palloc_extended(sizeof(CdpNodeAcc *) * Max(max, 1), MCXT_ALLOC_HUGE);
	if (root->combined != NULL && root->old_profile == profile->id)
		accs[n++] = CdpNodeOpen(set, root->combined);
	else if (!profile->moved || profile->n > CDP_LARGE_PROFILE)
	{
		CdpNode    *node = profile->ring;

		do
		{
			if (node->old_profile == profile->id)
				accs[n++] = CdpNodeOpen(set, node->state);
			node = node->next;
		} while (node != profile->ring);
	}
	else
	{
		for (i = 0; i < batch->graph->nactive; i++)
			if (batch->graph->active[i]->old_profile == profile->id)
				accs[n++] = CdpNodeOpen(set, batch->graph->active[i]->state);
	}
	CdpProfileEvaluate(set, accs, n, batch->previous, &then);

	for (i = 0; i < set->ntraits; i++)
	{
		CdpTrait   *trait = set->traits[i];
		Datum		old;
		Datum		new;
		CdpChange  *change;
		StringInfoData buf;

		if (!trait->announce)
			continue;
		old = CdpValueToJsonb(then.values[i], n == 0 || then.isnull[i], trait->type);
		new = CdpValueToJsonb(now->values[i], now->isnull[i], trait->type);
		if (DatumGetBool(DirectFunctionCall2(jsonb_eq, old, new)))
			continue;
		initStringInfo(&buf);
		appendStringInfo(&buf, "{\"trait\": \"%s\", \"old\": ", trait->name);
		(void) JsonbToCString(&buf, &DatumGetJsonbP(old)->root, 0);
		appendStringInfoString(&buf, ", \"new\": ");
		(void) JsonbToCString(&buf, &DatumGetJsonbP(new)->root, 0);
		appendStringInfoChar(&buf, '}');
		change = CdpChangeAdd(&batch->changes);
		change->kind = "trait_changed";
		change->profile_id = profile->id;
		change->cause = profile->cause;
		change->occurred_at = batch->applier.clock;
		change->payload =
			DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											   CStringGetDatum(buf.data)));
	}
	pfree(accs);
}

/*
 * Why does a profile pass into or out of a segment?  Who leaves one to whose
 * purpose he does not consent, leaves for that.  A merge or a split is the
 * reason only where a membership moves from one id to another: who enters
 * though none of the former profiles was in, or leaves by what the merged
 * profile adds up to, does so because of an entry, and triggers want to know.
 */
CdpCause
CdpPassageCause(CdpBatch *batch, CdpProfile *profile, CdpSegment *segment, bool enters)
{
	CdpCause	cause = CDP_CAUSE_ENTRY;
	CdpNode   **nodes;
	int			n;
	int			i,
				j;

	if (!enters && profile->cause != CDP_CAUSE_DEFINITION &&
		!CdpSegmentConsents(segment, &profile->values))
		return CDP_CAUSE_CONSENT;
	if (profile->cause == CDP_CAUSE_MERGE && !enters)
		return CDP_CAUSE_ENTRY;
	if (!enters ||
		(profile->cause != CDP_CAUSE_MERGE && profile->cause != CDP_CAUSE_SPLIT))
		return profile->cause;
	nodes = CdpProfileParticipants(batch, profile, &n);
	for (i = 0; i < n && cause == CDP_CAUSE_ENTRY; i++)
	{
		CdpNode    *former = nodes[i]->old_profile != 0
			? CdpGraphNode(batch->graph, nodes[i]->old_profile) : NULL;

		for (j = 0; former != NULL && j < former->nsegments; j++)
			if (former->segments[j] == segment->id)
				cause = profile->cause;
	}
	pfree(nodes);
	return cause;
}

/*
 * A segment that a former profile was in, and why it leaves; NULL when nothing
 * is to be told: the segment is gone, or is not evaluated now and keeps its
 * members, unless whoever has absorbed the profile does not consent.
 */
static CdpSegment *
former_segment(CdpBatch *batch, CdpNode *former, int32 id, CdpCause *cause)
{
	CdpSegment *segment = CdpSegmentNamed(batch->segments, id);
	CdpProfile *heir = former->is_gone ? NULL : CdpProfileOf(batch, former->profile);
	bool		consents = segment == NULL || heir == NULL || heir->values.values == NULL ||
		CdpSegmentConsents(segment, &heir->values);

	*cause = batch->erasing ? CDP_CAUSE_ERASURE :
		CdpBatchIsSilent(batch) ? CDP_CAUSE_DEFINITION :
		former->is_gone ? CDP_CAUSE_RETRACTION :
		consents ? CDP_CAUSE_MERGE : CDP_CAUSE_CONSENT;
	return consents ? CdpSegmentById(batch->segments, id) : segment;
}

/*
 * The identifiers of a profile, for segments that ask for them.
 */
static void
name_identifiers(CdpProfile *profile, CdpProfileEval *eval)
{
	CdpNode    *node = profile->ring;

	eval->identifiers = palloc(sizeof(CdpIdentifier *) * profile->n);
	do
	{
		eval->identifiers[eval->nidentifiers++] = node->identifier;
		node = node->next;
	} while (node != profile->ring);
}

/*
 * Which traits have changed, when a profile is touched by nothing but entries
 * of its own and its timer is not due: what else there is stays as it was.
 * False when that is not known.
 */
static bool
changed_traits(CdpBatch *batch, CdpProfile *profile, Bitmapset **changed)
{
	CdpNode    *root = profile->node;
	CdpNode   **nodes;
	bool		known = true;
	int			n;
	int			i;

	if (batch->replaying || profile->moved || profile->cause != CDP_CAUSE_ENTRY ||
		root->old_profile != root->id || root->timer <= batch->applier.clock)
		return false;
	/* those of a large profile that take no part have not changed */
	nodes = CdpProfileParticipants(batch, profile, &n);
	for (i = 0; i < n && known; i++)
		known = !nodes[i]->is_new && !nodes[i]->is_gone &&
			nodes[i]->old_profile == root->id &&
			(nodes[i]->acc == NULL || CdpNodeChanges(nodes[i]->acc, changed));
	pfree(nodes);
	return known;
}

/*
 * Values, segments and timers of the profiles that are touched.
 */
void
CdpProfilesEvaluate(CdpBatch *batch)
{
	CdpGraph   *graph = batch->graph;
	CdpProfile **touched;
	CdpProfileEval *evals;
	CdpProfileStates *nodes;
	TimestampTz clock = batch->applier.clock;
	CdpPassage    *entered;
	CdpPassage    *left;
	int			nentered = 0;
	int			nleft = 0;
	int			maxleft = 0;
	int			maxentered = 0;
	bool		announce = false;
	int			n = 0;
	int			i,
				j;

	touched = palloc(sizeof(CdpProfile *) * Max(batch->nprofiles, 1));
	for (i = 0; i < batch->nprofiles; i++)
		if (batch->profiles[i]->touched)
			touched[n++] = batch->profiles[i];

	evals = palloc0(sizeof(CdpProfileEval) * Max(n, 1));
	nodes = palloc0(sizeof(CdpProfileStates) * Max(n, 1));
	for (i = 0; i < n; i++)
	{
		nodes[i].nodes = open_states(batch, touched[i], &nodes[i].nnodes);
		nodes[i].out = &evals[i].values;
	}
	CdpProfileEvaluateAll(batch->traits, nodes, n, clock);
	for (i = 0; i < n; i++)
	{
		CdpNode    *root = touched[i]->node;

		evals[i].profile_id = touched[i]->id;
		if (batch->segments->identity)
			name_identifiers(touched[i], &evals[i]);
		if (root->old_profile == root->id)
		{
			evals[i].before = root->segments;
			evals[i].nbefore = root->nsegments;
		}
		evals[i].known = changed_traits(batch, touched[i], &evals[i].changed);
	}
	CdpSegmentsEvaluatePart(batch->segments, evals, n, clock, CDP_SEGMENTS_BEFORE_ACCOUNTS);
	for (i = 0; i < n; i++)
		touched[i]->values = evals[i].values;

	/* who was in what: rows of former profiles that are no more */
	for (i = 0; i < graph->nactive; i++)
		maxleft += graph->active[i]->nsegments;
	for (i = 0; i < n; i++)
		maxentered += evals[i].nafter;
	entered = palloc(sizeof(CdpPassage) * Max(maxentered, 1));
	left = palloc(sizeof(CdpPassage) * Max(maxleft, 1));

	for (i = 0; i < graph->nactive; i++)
	{
		CdpNode    *node = graph->active[i];

		if (node->id != node->old_profile ||
			(!node->is_gone && node->profile == node->id))
			continue;
		for (j = 0; j < node->nsegments; j++)
		{
			CdpCause	cause;
			CdpSegment *segment = former_segment(batch, node, node->segments[j], &cause);

			if (segment != NULL)
				CdpPassageAdd(batch, left, &nleft, segment, node->id, false, cause, clock);
			else
			{
				/* one that is not evaluated now, or is gone: nothing to tell */
				left[nleft].segment = node->segments[j];
				left[nleft].first = false;
				left[nleft++].profile = node->id;
			}
		}
		node->segments_changed = node->nsegments > 0;
		node->nnew_segments = 0;
		node->new_timer = DT_NOEND;
	}

	for (i = 0; i < batch->traits->ntraits; i++)
		announce |= batch->traits->traits[i]->announce;

	for (i = 0; i < n; i++)
	{
		CdpNode    *root = touched[i]->node;
		CdpProfileEval *eval = &evals[i];
		CdpCause	cause = touched[i]->cause;
		TimestampTz at = clock;
		int			b = 0;
		int			a = 0;

		if (cause == CDP_CAUSE_TIMER && root->timer <= clock)
			at = root->timer;
		while (b < eval->nbefore || a < eval->nafter)
		{
			if (b < eval->nbefore && a < eval->nafter &&
				eval->before[b] == eval->after[a])
			{
				a++;
				b++;
			}
			else if (a == eval->nafter ||
					 (b < eval->nbefore && eval->before[b] < eval->after[a]))
			{
				/* out of one that is not evaluated, too, for want of consent */
				CdpSegment *segment = CdpSegmentNamed(batch->segments,
													  eval->before[b++]);

				root->segments_changed = true;
				if (segment != NULL)
					CdpPassageAdd(batch, left, &nleft, segment, root->id, false,
							CdpPassageCause(batch, touched[i], segment, false),
							at);
			}
			else
			{
				CdpSegment *segment = CdpSegmentById(batch->segments,
													 eval->after[a++]);

				root->segments_changed = true;
				CdpPassageAdd(batch, entered, &nentered, segment, root->id, true,
						CdpPassageCause(batch, touched[i], segment, true),
						at);
				/* a number that nobody had before */
				entered[nentered - 1].first = root->is_new &&
					root->id >= batch->applier.next_node;
			}
		}
		root->nnew_segments = eval->nafter;
		root->new_segments = eval->after;
		if (root->old_profile != root->id && root->nsegments > 0)
			root->segments_changed = true;

		/*
		 * A timer that comes too early does no harm: it is set anew when it
		 * goes off.  So one that is still to come is left alone, which spares
		 * a write for every entry that pushes it back.
		 */
		if (eval->values.next < root->timer || root->timer <= clock)
			root->new_timer = eval->values.next;

		if (announce && !CdpBatchIsSilent(batch))
			announce_traits(batch, touched[i], &eval->values);
	}
	CdpPassagesWrite(batch, entered, nentered, left, nleft);
}
