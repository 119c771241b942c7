/*-------------------------------------------------------------------------
 *
 * fold.c
 *	  From entries to contributions: which traits look at an entry, does its
 *	  filter let it through, and what value does it add.
 *
 *	  The hot path of the applier.  Traits are found by the entry's event
 *	  name; an expression that several traits share is evaluated once.  A batch
 *	  runs in one internal subtransaction; when an expression fails, what has
 *	  been computed so far stays, the failing (entry, trait) is counted, and a
 *	  new subtransaction goes on behind it.  So a batch without errors pays for
 *	  one, and an error costs one more.
 *
 * IDENTIFICATION
 *	  src/traits/fold.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"

#include "traits/traitset.h"

/* A time in the year 290000: anything later has windows without end. */
#define CDP_WINDOW_LAST		INT64CONST(9088000000000000000)

/* Contributions are carved from blocks of this many. */
#define CONTRIBUTIONS_PER_BLOCK		4096

typedef struct EvalRun
{
	CdpTraitSet *set;
	const Bitmapset *only;
	CdpEntry   *entries;
	int			n;
	CdpContributions *out;
	MemoryContext context;		/* of the caller */
	CdpContribution *block;
	int			block_used;
	int			block_size;
	int			group;

	/* where we are: survives an error */
	int			entry;
	int			candidate;
	bool		entry_open;
	int64		stamp;
	const CdpEventTraits *candidates;
} EvalRun;

/*
 * ((at AT TIME ZONE tz) + within) AT TIME ZONE tz, as the server computes it.
 */
TimestampTz
CdpWindowEnd(const CdpTraitRules *rules, TimestampTz at)
{
	const Interval *within = rules->definition->within;
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;
	Timestamp	local = at;
	TimestampTz result;

	if (rules->utc && within->month == 0)
	{
		int64		span;

		if (pg_mul_s64_overflow(within->day, USECS_PER_DAY, &span) ||
			pg_add_s64_overflow(span, within->time, &span) ||
			pg_add_s64_overflow(at, span, &result) ||
			!IS_VALID_TIMESTAMP(result))
			return DT_NOEND;
		return result;
	}
	if (!rules->utc)
	{
		if (timestamp2tm(at, &tz, &tm, &fsec, NULL, rules->tz) != 0 ||
			tm2timestamp(&tm, fsec, NULL, &local) != 0)
			return DT_NOEND;
	}
	/* adding an interval must not fail: at most 1000 years, see definition.c */
	if (local > CDP_WINDOW_LAST)
		return DT_NOEND;
	local = DatumGetTimestamp(DirectFunctionCall2(timestamp_pl_interval,
												  TimestampGetDatum(local),
												  IntervalPGetDatum(within)));
	if (rules->utc)
		return local;
	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		return DT_NOEND;
	tz = DetermineTimeZoneOffset(&tm, rules->tz);
	if (tm2timestamp(&tm, fsec, &tz, &result) != 0)
		return DT_NOEND;
	return result;
}

static const CdpEventTraits *
traits_of_event(CdpTraitIndex *lookup, const text *event)
{
	const char *data;
	int			len;
	uint32		hash;

	if (event == NULL)
		return &lookup->any;
	data = VARDATA_ANY(event);
	len = VARSIZE_ANY_EXHDR(event);
	hash = hash_bytes((const unsigned char *) data, len);
	for (uint32 i = hash & lookup->mask;; i = (i + 1) & lookup->mask)
	{
		CdpEventTraits *slot = &lookup->events[i];

		if (slot->event == NULL)
			return &lookup->any;
		if (slot->hash == hash && slot->eventlen == len &&
			memcmp(slot->event, data, len) == 0)
			return slot;
	}
}

/*
 * A sum must not overflow whatever is added later, and whatever the order; so
 * numbers of absurd size are not taken in the first place.
 */
static void
check_summand(Datum value)
{
	static Numeric limit = NULL;
	static Numeric minus_limit = NULL;
	Numeric		number = DatumGetNumeric(value);

	if (limit == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		Numeric		plus;

		plus = DatumGetNumeric(DirectFunctionCall3(numeric_in,
												   CStringGetDatum("1e1000"),
												   ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1)));
		minus_limit = DatumGetNumeric(DirectFunctionCall1(numeric_uminus,
														  NumericGetDatum(plus)));
		limit = plus;
		MemoryContextSwitchTo(old);
	}
	if (numeric_is_nan(number) || numeric_is_inf(number))
		return;
	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, value, NumericGetDatum(limit))) > 0 ||
		DatumGetInt32(DirectFunctionCall2(numeric_cmp, value, NumericGetDatum(minus_limit))) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("number is too large to be added up")));
}

static inline Datum
eval_shared(CdpSharedExpr *shared, EvalRun *run, ExprContext *econtext, bool *isnull)
{
	if (shared->stamp != run->stamp)
	{
		shared->value = ExecEvalExprSwitchContext(shared->state, econtext,
												  &shared->isnull);
		shared->stamp = run->stamp;
	}
	*isnull = shared->isnull;
	return shared->value;
}

/* One trait for one entry. */
static void
eval_trait(EvalRun *run, int index, ExprContext *econtext)
{
	CdpTraitRules *rules = run->set->traits[index]->rules;
	CdpContributions *out = &run->out[run->entry];
	CdpContribution *item;
	Datum		value = (Datum) 0;
	bool		isnull = true;

	if (rules->filter)
	{
		bool		null;
		Datum		passes = eval_shared(rules->filter, run, econtext, &null);

		if (null || !DatumGetBool(passes))
			return;
	}
	if (rules->value)
	{
		CdpSharedExpr *shared = rules->value;

		value = eval_shared(shared, run, econtext, &isnull);
		if (isnull)
			return;
		if (!rules->state.has_value)
			isnull = true;		/* counted; the value itself is not kept */
		else if (!rules->state.typbyval)
		{
			if (shared->copied != run->stamp)
			{
				MemoryContext old = MemoryContextSwitchTo(run->context);

				if (rules->state.typlen == -1)
					value = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
				else
					value = datumCopy(value, false, rules->state.typlen);
				MemoryContextSwitchTo(old);
				if (rules->state.type == NUMERICOID)
					check_summand(value);
				shared->copy = value;
				shared->copied = run->stamp;
			}
			value = shared->copy;
		}
	}

	/*
	 * Contributions of an entry lie side by side in a block.  There is always
	 * room for those of all traits (see run_group).
	 */
	if (out->n > 0 && out->items + out->n != run->block + run->block_used)
	{
		/* an earlier group's: move them behind the others */
		memcpy(run->block + run->block_used, out->items,
			   out->n * sizeof(CdpContribution));
		out->items = run->block + run->block_used;
		run->block_used += out->n;
	}
	else if (out->n == 0)
		out->items = run->block + run->block_used;
	item = &run->block[run->block_used++];
	item->trait = index;
	item->isnull = isnull;
	item->value = value;
	out->n++;
}

/*
 * Go on from where the run is until the last entry.
 */
static void
run_group(EvalRun *run)
{
	CdpTraitIndex *lookup = run->set->lookup;
	ExprContext *econtext = lookup->econtext;
	TupleTableSlot *slot = lookup->entryslot;
	const Bitmapset *members = lookup->groups[run->group].traits;
	bool		single = lookup->ngroups == 1;

	econtext->ecxt_scantuple = slot;
	for (; run->entry < run->n; run->entry++)
	{
		CdpEntry   *entry = &run->entries[run->entry];

		if (!run->entry_open)
		{
			if (entry->reject_reason != NULL || entry->owner == 0 ||
				!(entry->type == CDP_ENTRY_TRACK ||
				  entry->type == CDP_ENTRY_PAGE ||
				  entry->type == CDP_ENTRY_SCREEN))
				continue;
			run->candidates = traits_of_event(lookup, entry->event);
			if (run->candidates->ntraits == 0)
				continue;
			if ((run->entry & 0xFF) == 0)
				CHECK_FOR_INTERRUPTS();
			run->candidate = 0;
			run->entry_open = true;
		}

		/*
		 * The entry's arrays are the slot's.  A new stamp also when an error
		 * made us come back: values computed before it are gone.
		 */
		ResetExprContext(econtext);
		run->stamp = ++lookup->stamp;
		slot->tts_values = entry->values;
		slot->tts_isnull = entry->isnull;
		slot->tts_nvalid = CDP_EVENTS_NATTS;
		slot->tts_flags &= ~TTS_FLAG_EMPTY;

		/* room for this entry's, and for an earlier group's that move */
		if (run->block_used + 2 * run->set->ntraits > run->block_size)
		{
			run->block_size = CONTRIBUTIONS_PER_BLOCK + 2 * run->set->ntraits;
			run->block = (CdpContribution *)
				MemoryContextAlloc(run->context,
								   mul_size(run->block_size, sizeof(CdpContribution)));
			run->block_used = 0;
		}
		for (; run->candidate < run->candidates->ntraits; run->candidate++)
		{
			int			index = run->candidates->traits[run->candidate];

			if ((single || bms_is_member(index, members)) &&
				(run->only == NULL || bms_is_member(index, run->only)))
				eval_trait(run, index, econtext);
		}
		run->entry_open = false;
	}
}

/*
 * Evaluate one group, catching errors of its expressions.
 */
static void
run_group_protected(EvalRun *run)
{
	CdpEvalGroup *group = &run->set->lookup->groups[run->group];
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	run->entry = 0;
	run->entry_open = false;
	while (run->entry < run->n)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			Oid			userid;
			int			sec_context;
			int			nest_level = 0;

			GetUserIdAndSecContext(&userid, &sec_context);
			if (group->owner != userid)
				SetUserIdAndSecContext(group->owner,
									   sec_context | SECURITY_RESTRICTED_OPERATION);
			if (group->timezone)
				nest_level = CdpPinSettings(group->timezone);
			run_group(run);
			if (group->timezone)
				CdpUnpinSettings(nest_level);
			SetUserIdAndSecContext(userid, sec_context);

			ReleaseCurrentSubTransaction();
			MemoryContextSwitchTo(context);
			CurrentResourceOwner = owner;
		}
		PG_CATCH();
		{
			ErrorData  *edata;
			int			index;

			MemoryContextSwitchTo(context);
			edata = CopyErrorData();
			FlushErrorState();
			RollbackAndReleaseCurrentSubTransaction();
			MemoryContextSwitchTo(context);
			CurrentResourceOwner = owner;
			if (!run->entry_open || !CdpSwallowError(edata))
				ReThrowError(edata);

			index = run->candidates->traits[run->candidate];
			CdpTraitErrorCount(run->set->traits[index]->id,
							   run->entries[run->entry].id, edata->message);
			FreeErrorData(edata);
			run->candidate++;
		}
		PG_END_TRY();
	}
}

void
CdpTraitsEvaluate(CdpTraitSet *set, const Bitmapset *only,
				  CdpEntry *entries, int n, CdpContributions *out)
{
	CdpTraitIndex *lookup = set->lookup;
	EvalRun		run = {0};

	memset(out, 0, n * sizeof(CdpContributions));
	run.set = set;
	run.only = only;
	run.entries = entries;
	run.n = n;
	run.out = out;
	run.context = CurrentMemoryContext;

	for (run.group = 0; run.group < lookup->ngroups; run.group++)
	{
		CdpEvalGroup *group = &lookup->groups[run.group];

		if (only != NULL && !bms_overlap(only, group->traits))
			continue;
		run.entry = 0;
		run.entry_open = false;
		if (group->can_fail && !IsInParallelMode())
			run_group_protected(&run);
		else
			run_group(&run);
	}

	/* the slot must not keep pointing at the caller's entries */
	lookup->entryslot->tts_flags |= TTS_FLAG_EMPTY;
	lookup->entryslot->tts_nvalid = 0;

	if (only == NULL)
	{
		for (int i = 0; i < n; i++)
			if (entries[i].type == CDP_ENTRY_IDENTIFY &&
				entries[i].reject_reason == NULL && entries[i].owner != 0)
				CdpDeclaredKeysNote(set, &entries[i]);
		CdpDeclaredKeysFlush();
	}
	CdpTraitErrorsFlush();
}
