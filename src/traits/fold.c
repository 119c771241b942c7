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
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"

#include "cdp.h"
#include "identity/account.h"
#include "traits/traitset.h"

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
	int			element;		/* of the candidate's array */
	bool		in_elements;
	bool		entry_open;
	bool		nulls;			/* a value was NULL */
	int64		stamp;
	const CdpEventTraits *candidates;
} EvalRun;

/* When an entry of that time counts: from begin until before end. */
void
CdpWindow(const CdpTraitRules *rules, TimestampTz at, TimestampTz *begin,
		  TimestampTz *end)
{
	const CdpDefinition *definition = rules->definition;

	*begin = at = CdpCellStart(&rules->state, at);
	if (definition->older_than)
		*begin = CdpLocalShift(at, definition->older_than, rules->tz, rules->utc);
	*end = DT_NOEND;
	if (definition->within)
		*end = CdpLocalShift(at, definition->within, rules->tz, rules->utc);
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

static const CdpEventTraits *
candidates_of(CdpTraitIndex *lookup, const CdpEntry *entry)
{
	static const CdpEventTraits none = {0};

	switch (entry->type)
	{
		case CDP_ENTRY_TRACK:
		case CDP_ENTRY_PAGE:
		case CDP_ENTRY_SCREEN:
			return traits_of_event(lookup, entry->event);
		case CDP_ENTRY_IDENTIFY:
			return &lookup->calls;
		default:
			return &none;
	}
}

/* Does a trait want to know of the accounts that the entry names? */
static inline bool
names_accounts(const CdpTraitIndex *lookup, const CdpEntry *entry)
{
	return lookup->namings.ntraits > 0 && entry->naccounts > 0;
}

static bool
names_account(const CdpEntry *entry, const char *account)
{
	int			len = strlen(account);

	for (int i = 0; i < entry->naccounts; i++)
	{
		if (VARSIZE_ANY_EXHDR(entry->accounts[i]) == len &&
			memcmp(VARDATA_ANY(entry->accounts[i]), account, len) == 0)
			return true;
	}
	return false;
}

/*
 * The lists of traits that an entry is for, one after the other; NULL: no more.
 */
static const CdpEventTraits *
next_candidates(const CdpTraitIndex *lookup, const CdpEntry *entry,
				const CdpEventTraits *last)
{
	if (last == &lookup->consents)
		return NULL;
	if (last != &lookup->namings && names_accounts(lookup, entry))
		return &lookup->namings;
	if (lookup->consents.ntraits > 0 && CdpEntryConsents(entry))
		return &lookup->consents;
	return NULL;
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

/*
 * Contributions of an entry lie side by side in a block.
 */
static void
add_contribution(EvalRun *run, int index, bool isnull, Datum value)
{
	CdpContributions *out = &run->out[run->entry];
	CdpContribution *item;

	if (run->block_used + out->n + 1 > run->block_size)
	{
		run->block_size = Max(CONTRIBUTIONS_PER_BLOCK, 2 * (out->n + 1));
		run->block = (CdpContribution *)
			MemoryContextAlloc(run->context,
							   mul_size(run->block_size, sizeof(CdpContribution)));
		run->block_used = 0;
	}
	if (out->n == 0)
		out->items = run->block + run->block_used;
	else if (out->items + out->n != run->block + run->block_used)
	{
		/* an earlier group's, or in a block that is full: move them */
		memcpy(run->block + run->block_used, out->items,
			   out->n * sizeof(CdpContribution));
		out->items = run->block + run->block_used;
		run->block_used += out->n;
	}
	item = &run->block[run->block_used++];
	item->trait = index;
	item->isnull = isnull;
	item->value = value;
	out->n++;
}

/* One trait for one entry, or for one element of its array. */
static void
eval_once(EvalRun *run, int index, ExprContext *econtext)
{
	CdpTraitRules *rules = run->set->traits[index]->rules;
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
		{
			rules->nulls++;
			run->nulls = true;
			return;
		}
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
			if (rules->limited &&
				VARSIZE_ANY_EXHDR(DatumGetPointer(value)) > CDP_MAX_LIST_VALUE)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("value is too long for a list"),
						 errdetail("A value of a list may have at most %d bytes.",
								   CDP_MAX_LIST_VALUE)));
		}
	}
	add_contribution(run, index, isnull, value);
}

/*
 * One trait for every element of an array.  An element that fails does not
 * count; after the error the run goes on behind it.
 */
static void
eval_elements(EvalRun *run, int index, ExprContext *econtext)
{
	CdpTraitIndex *lookup = run->set->lookup;
	TupleTableSlot *slot = lookup->itemslot;
	MemoryContext old;
	Jsonb	   *array;
	Datum		value;
	bool		isnull;
	int			n;

	value = eval_shared(run->set->traits[index]->rules->each, run, econtext, &isnull);
	if (isnull)
		return;
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	array = DatumGetJsonbP(value);
	if (!JB_ROOT_IS_ARRAY(array) || JB_ROOT_IS_SCALAR(array))
	{
		JsonbValue	v;

		MemoryContextSwitchTo(old);
		if (JB_ROOT_IS_SCALAR(array) && JsonbExtractScalar(&array->root, &v) &&
			v.type == jbvNull)
			return;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"each\" is not an array")));
	}
	n = JB_ROOT_COUNT(array);
	run->in_elements = true;
	econtext->ecxt_innertuple = slot;
	slot->tts_nvalid = 1;
	slot->tts_flags &= ~TTS_FLAG_EMPTY;
	for (; run->element < n; run->element++)
	{
		MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
		slot->tts_values[0] =
			JsonbPGetDatum(JsonbValueToJsonb(getIthJsonbValueFromContainer(&array->root,
																		   run->element)));
		slot->tts_isnull[0] = false;
		MemoryContextSwitchTo(old);
		if ((run->element & 0xFF) == 0)
			CHECK_FOR_INTERRUPTS();
		/* what is shared is so within an element */
		run->stamp = ++lookup->stamp;
		eval_once(run, index, econtext);
	}
	run->in_elements = false;
	run->element = 0;
	run->stamp = ++lookup->stamp;
	econtext->ecxt_innertuple = NULL;
	slot->tts_nvalid = 0;
	slot->tts_flags |= TTS_FLAG_EMPTY;
	MemoryContextSwitchTo(old);
}

/* What an entry says about a purpose: an item for each identifier it names. */
static void
eval_consent(EvalRun *run, int index)
{
	MemoryContext old = MemoryContextSwitchTo(run->context);
	Datum	   *items;
	int			n = CdpConsentItems(run->set->traits[index]->rules->purpose,
									run->set->generation,
									&run->entries[run->entry], &items);

	for (int i = 0; i < n; i++)
		add_contribution(run, index, false, items[i]);
	MemoryContextSwitchTo(old);
}

static inline void
eval_trait(EvalRun *run, int index, ExprContext *econtext)
{
	CdpTraitRules *rules = run->set->traits[index]->rules;

	if (run->entries[run->entry].at < rules->since)
		return;
	/* counts when the back-fill comes to its owner */
	if (run->set->traits[index]->building &&
		run->entries[run->entry].owner > run->set->traits[index]->built)
		return;
	if (rules->purpose != NULL)
		eval_consent(run, index);
	else if (rules->each != NULL)
		eval_elements(run, index, econtext);
	else
		eval_once(run, index, econtext);
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
			if (entry->reject_reason != NULL || entry->owner == 0)
				continue;
			run->candidates = candidates_of(lookup, entry);
			if (run->candidates->ntraits == 0)
				run->candidates = next_candidates(lookup, entry, run->candidates);
			if (run->candidates == NULL)
				continue;
			if ((run->entry & 0xFF) == 0)
				CHECK_FOR_INTERRUPTS();
			run->candidate = 0;
			run->element = 0;
			run->entry_open = true;
		}

		/*
		 * The entry's arrays are the slot's.  A new stamp also when an error
		 * made us come back: values computed before it are gone.
		 */
		ResetExprContext(econtext);
		run->stamp = ++lookup->stamp;
		slot->tts_values = entry->values;
		if (entry->whole != NULL)
		{
			memcpy(lookup->values, entry->values, sizeof(lookup->values));
			lookup->values[CDP_EVENTS_PROPERTIES] = JsonbPGetDatum(entry->properties);
			slot->tts_values = lookup->values;
		}
		slot->tts_isnull = entry->isnull;
		slot->tts_nvalid = CDP_EVENTS_NATTS;
		slot->tts_flags &= ~TTS_FLAG_EMPTY;

candidates:
		for (; run->candidate < run->candidates->ntraits; run->candidate++)
		{
			int			index = run->candidates->traits[run->candidate];

			if (run->candidates == &lookup->namings &&
				!names_account(entry, run->set->traits[index]->rules->definition->key))
				continue;
			if ((single || bms_is_member(index, members)) &&
				(run->only == NULL || bms_is_member(index, run->only)))
				eval_trait(run, index, econtext);
		}
		run->candidates = next_candidates(lookup, entry, run->candidates);
		if (run->candidates != NULL)
		{
			run->candidate = 0;
			goto candidates;
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
			if (run->in_elements)
				run->element++;
			else
			{
				run->candidate++;
				run->element = 0;
			}
			run->in_elements = false;
		}
		PG_END_TRY();
	}
}

/*
 * May an entry of this kind, and of this event, concern the trait?  What its
 * filter says is not known while it is suspended, nor are all accounts that are
 * named.
 */
static bool
concerns(CdpTrait *trait, const CdpEntry *entry)
{
	const CdpDefinition *definition = trait->rules->definition;

	if (entry->reject_reason != NULL || entry->owner == 0 || entry->at < trait->rules->since ||
		(trait->building && entry->owner > trait->built))
		return false;
	/* what is asked of members may follow from anything */
	if (definition->aggregate == CDP_AGG_EXPRESSION)
		return true;
	if (definition->key != NULL)
		return definition->aggregate == CDP_AGG_LAST || CDP_AGG_OF_CONSENT(definition->aggregate) ||
			entry->type == CDP_ENTRY_IDENTIFY;
	return (entry->type == CDP_ENTRY_TRACK || entry->type == CDP_ENTRY_PAGE ||
			entry->type == CDP_ENTRY_SCREEN) &&
		(definition->event == NULL ||
		 (entry->event != NULL &&
		  strlen(definition->event) == VARSIZE_ANY_EXHDR(entry->event) &&
		  memcmp(definition->event, VARDATA_ANY(entry->event),
				 VARSIZE_ANY_EXHDR(entry->event)) == 0));
}

/*
 * Remember which suspended traits these entries do not count for: they stay
 * without them when they are not suspended any more, until they are built anew.
 */
static void
note_missed(CdpTraitSet *set, const Bitmapset *only, const CdpEntry *entries, int n)
{
	int32	   *ids = palloc(sizeof(int32) * bms_num_members(set->lookup->suspended));
	int			nids = 0;
	int			index = -1;

	while ((index = bms_next_member(set->lookup->suspended, index)) >= 0)
	{
		int			i = 0;

		if (only != NULL && !bms_is_member(index, only))
			continue;
		CHECK_FOR_INTERRUPTS();
		while (i < n && !concerns(set->traits[index], &entries[i]))
			i++;
		if (i < n)
			ids[nids++] = set->traits[index]->id;
	}
	if (nids > 0)
		CdpTraitsMissedNote(ids, nids);
	pfree(ids);
}

void
CdpTraitsEvaluate(CdpTraitSet *set, const Bitmapset *only,
				  CdpEntry *entries, int n, CdpContributions *out)
{
	CdpTraitIndex *lookup = set->lookup;
	EvalRun		run = {0};

	memset(out, 0, n * sizeof(CdpContributions));
	for (int i = 0; lookup->namings.ntraits > 0 && i < n; i++)
	{
		if (!entries[i].accounts_known)
			CdpEntryAccounts(CdpKindSetGet(set->generation), &entries[i]);
	}
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

	/* the slots must not keep pointing at the caller's entries */
	lookup->econtext->ecxt_innertuple = NULL;
	lookup->entryslot->tts_flags |= TTS_FLAG_EMPTY;
	lookup->entryslot->tts_nvalid = 0;

	if (only == NULL && !set->accounts)
	{
		for (int i = 0; i < n; i++)
			if (entries[i].type == CDP_ENTRY_IDENTIFY &&
				entries[i].reject_reason == NULL && entries[i].owner != 0)
				CdpDeclaredKeysNote(set, &entries[i]);
		CdpDeclaredKeysFlush();
	}
	for (int i = 0; run.nulls && i < set->ntraits; i++)
	{
		CdpTraitRules *rules = set->traits[i]->rules;

		if (rules->nulls > 0)
			CdpTraitNullsCount(set->traits[i]->id, rules->nulls);
		rules->nulls = 0;
	}
	CdpTraitErrorsFlush();
	if (lookup->suspended != NULL && CdpApplierLockMine())
		note_missed(set, only, entries, n);
}
