/*-------------------------------------------------------------------------
 *
 * evaluate.c
 *	  Who is in which segment as of an instant.
 *
 *	  Works segment by segment through chunks of profiles, so that the switch
 *	  to a segment's owner is paid once a chunk.  The row that expressions
 *	  read is not copied: the slot's arrays are those of the profile.
 *
 *	  Errors.  Where a predicate can raise one (most cannot: comparisons are
 *	  leakproof), the work runs in an internal subtransaction.  After an error
 *	  it goes on in a new one with the next profile; nothing is done twice,
 *	  since results are in memory that the subtransaction does not own.
 *	  Cancellation, lack of memory and damage are not errors of a predicate
 *	  and are passed on.
 *
 * IDENTIFICATION
 *	  src/segments/evaluate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "segments/predicate.h"
#include "statement.h"

/* Fractions are as fine as this. */
#define HOLDOUT_PARTS	1000000

/* Milliseconds between additions to cdp.segment_evaluations. */
#define COUNT_INTERVAL	1000

/* One call in so many is timed. */
#define TIMED_CALLS 16

/* Errors of one segment during one call. */
typedef struct SegmentErrors
{
	int64		count;
	char	   *last;
	int64		profile_id;
} SegmentErrors;

typedef struct Evaluation
{
	CdpSegmentSet *set;
	CdpSegment **todo;			/* in the order of evaluation */
	SegmentErrors *errors;		/* by position in todo */
	int64	   *evaluated;		/* likewise */
	int64	   *timed;			/* of these, how many with the clock on … */
	double	   *us;				/* … and how long they took */
	int			ntodo;
	bool		timing;			/* is the clock on? */
	bool		safe;			/* nothing in todo can raise an error */
	CdpProfileEval *profiles;	/* of the chunk */
	int			nprofiles;
	Datum	   *member;			/* [profile][column] */
	bool	   *never_null;
	TimestampTz now;
	CdpSegmentsPart part;

	/* where the work is; moved on after an error */
	int			segment;
	int			profile;
} Evaluation;

bool
CdpErrorIsLocal(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_TRANSACTION_ROLLBACK:
			return false;
		default:
			return sqlerrcode != ERRCODE_DATA_CORRUPTED &&
				sqlerrcode != ERRCODE_INDEX_CORRUPTED;
	}
}

/*
 * Prepare the expressions as the current user, whose right to execute their
 * functions is checked here.
 */
static void
init_states(CdpSegmentSet *set, CdpSegmentRules *rules)
{
	MemoryContext oldcontext;

	if (rules->state_context == NULL)
		rules->state_context = AllocSetContextCreate(set->context, "cdp predicate",
													 ALLOCSET_SMALL_SIZES);
	MemoryContextReset(rules->state_context);
	oldcontext = MemoryContextSwitchTo(rules->state_context);
	rules->predicate_state = ExecInitExpr(rules->predicate.shared, NULL);
	rules->exit_state = ExecInitExpr(rules->exit_when.shared, NULL);
	MemoryContextSwitchTo(oldcontext);
	rules->owner_oid = GetUserId();
}

static void
forget_states(CdpSegmentRules *rules)
{
	rules->owner_oid = InvalidOid;
	rules->predicate_state = NULL;
	rules->exit_state = NULL;
}

/*
 * The owner's role by now; without it the segment is left as it is.
 */
static bool
check_owner(CdpSegment *segment)
{
	CdpSegmentRules *rules = segment->rules;
	Oid			owner = get_role_oid(rules->owner, true);

	if (!OidIsValid(owner))
	{
		/* that of a hidden segment owns the one that asks for it, too */
		if (!rules->warned && !segment->hidden)
			ereport(WARNING,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("segment \"%s\" is suspended: its owner \"%s\" does not exist",
							segment->name, rules->owner),
					 errhint("Create the role, or let another own the segment with cdp.alter_segment().")));
		rules->warned = true;
		return false;
	}
	rules->warned = false;
	rules->role = owner;
	if (rules->owner_oid != owner)
		forget_states(rules);
	return true;
}

/*
 * Who is held out follows from the profile's number and the seed, so that it
 * stays so.
 */
bool
CdpHeldOut(const CdpSegmentRules *rules, int64 profile_id)
{
	char	   *key = psprintf("%s:%lld", rules->seed, (long long) profile_id);
	uint64		hash = DatumGetUInt64(hash_any_extended((unsigned char *) key, strlen(key), 0));

	pfree(key);
	return (double) ((hash & PG_INT64_MAX) % HOLDOUT_PARTS) < rules->holdout * HOLDOUT_PARTS;
}

/*
 * In a segment that this one excludes, or held out?
 */
static bool
is_excluded(const CdpSegmentRules *rules, int64 profile_id, const Datum *member)
{
	int			column = -1;

	while ((column = bms_next_member(rules->excluded, column)) >= 0)
	{
		if (DatumGetBool(member[column]))
			return true;
	}
	return rules->holdout > 0 && CdpHeldOut(rules, profile_id);
}

/*
 * Is a profile in the segment, given whether it was?
 *
 * With exit_when, who is in stays until exit_when is true, and who is out
 * enters when the predicate is true and exit_when is not: else he would go in
 * and out by turns for as long as both are true.
 */
bool
CdpSegmentHolds(const CdpSegmentRules *rules, CdpPredicateSlots *slots, int64 profile_id,
				const CdpProfileValues *values, Datum *member, bool *never_null, bool was,
				bool *isnull)
{
	bool		exit_null;
	bool		is = was && rules->exit_state != NULL;

	if (!is)
		is = CdpPredicateValue(slots, rules->predicate_state, values, member, never_null, isnull);
	if (is && rules->exit_state != NULL)
		is = !CdpPredicateValue(slots, rules->exit_state, values, member, never_null, &exit_null);
	return is && !is_excluded(rules, profile_id, member) &&
		(rules->purpose == NULL || CdpConsentGranted(values, rules->consent));
}

/*
 * Evaluate from where the work stands to the end of the chunk.
 */
static void
run(Evaluation *e)
{
	CdpSegmentSet *set = e->set;
	int			ncolumns = set->columns->n;

	CdpEnvironmentInstant(set->columns->slots, e->now);
	for (; e->segment < e->ntodo; e->segment++, e->profile = 0)
	{
		CdpSegment *segment = e->todo[e->segment];
		CdpSegmentRules *rules = segment->rules;
		bool		pinned = rules->predicate.pinned || rules->exit_when.pinned;
		int64		before = e->evaluated[e->segment];
		bool		timing = e->timing && rules->predicate_state != NULL;
		instr_time  begin;
		instr_time  end;
		int			nest_level = 0;
		Oid			userid;
		int			sec_context;

		if (timing)
			INSTR_TIME_SET_CURRENT(begin);
		GetUserIdAndSecContext(&userid, &sec_context);
		SetUserIdAndSecContext(rules->role, sec_context | SECURITY_RESTRICTED_OPERATION);
		if (pinned)
			nest_level = CdpPinSettings(rules->timezone);
		for (; e->profile < e->nprofiles; e->profile++)
		{
			CdpProfileEval *profile = &e->profiles[e->profile];
			Datum	   *member = e->member + (Size) e->profile * ncolumns;
			bool		was = DatumGetBool(member[rules->column]);
			bool		isnull;
			bool		is;

			CHECK_FOR_INTERRUPTS();
			if (profile->known && e->part != CDP_SEGMENTS_AFTER_ACCOUNTS &&
				!bms_overlap(segment->depends, profile->changed))
				continue;
			e->evaluated[e->segment]++;

			/* an error leaves the profile out */
			member[rules->column] = BoolGetDatum(false);
			CdpClockReset();
			CdpSharedTermsProfile(set->columns->terms, e->profile);
			if (segment->identity)
				CdpEnvironmentIdentity(set->columns->slots, set->generation,
									   profile->identifiers, profile->nidentifiers);
			if (segment->primary)
				CdpEnvironmentPrimary(set->columns->slots, profile->primary);
			if (rules->predicate_state == NULL)
				init_states(set, rules);
			is = CdpSegmentHolds(rules, set->columns->slots, profile->profile_id,
								 &profile->values, member, e->never_null, was, &isnull);
			member[rules->column] = BoolGetDatum(is);
			profile->values.next = Min(profile->values.next, CdpClockNoted());
		}
		if (pinned)
			CdpUnpinSettings(nest_level);
		SetUserIdAndSecContext(userid, sec_context);
		if (timing)
		{
			INSTR_TIME_SET_CURRENT(end);
			INSTR_TIME_SUBTRACT(end, begin);
			e->timed[e->segment] += e->evaluated[e->segment] - before;
			e->us[e->segment] += INSTR_TIME_GET_DOUBLE(end) * 1000000;
		}
	}
}

static void
run_guarded(Evaluation *e)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	volatile bool done = false;

	while (!done)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(oldcontext);
		PG_TRY();
		{
			run(e);
			ReleaseCurrentSubTransaction();
			done = true;
		}
		PG_CATCH();
		{
			ErrorData  *error;
			SegmentErrors *errors = &e->errors[e->segment];

			MemoryContextSwitchTo(oldcontext);
			error = CopyErrorData();
			FlushErrorState();
			RollbackAndReleaseCurrentSubTransaction();
			MemoryContextSwitchTo(oldcontext);
			CurrentResourceOwner = oldowner;
			forget_states(e->todo[e->segment]->rules);
			if (!CdpErrorIsLocal(error->sqlerrcode))
				ReThrowError(error);
			if (errors->last != NULL)
				pfree(errors->last);
			errors->last = pstrdup(error->message);
			errors->profile_id = e->profiles[e->profile].profile_id;
			e->profiles[e->profile].values.next =
				Min(e->profiles[e->profile].values.next, CdpClockNoted());
			errors->count++;
			FreeErrorData(error);
			e->profile++;
		}
		PG_END_TRY();
		MemoryContextSwitchTo(oldcontext);
		CurrentResourceOwner = oldowner;
	}
}

/*
 * Add to a segment's errors; the caller is the extension's owner and connected.
 */
static void
record_error(int32 id, int64 count, const char *message, int64 profile_id,
			 TimestampTz now, bool suspended)
{
	Oid			types[] = {INT4OID, INT8OID, TEXTOID, INT8OID, TIMESTAMPTZOID, BOOLOID};
	Datum		values[6];
	char		nulls[7] = "      ";

	values[0] = Int32GetDatum(id);
	values[1] = Int64GetDatum(count);
	values[2] = CStringGetTextDatum(message);
	values[3] = Int64GetDatum(profile_id);
	if (suspended)
		nulls[3] = 'n';
	values[4] = TimestampTzGetDatum(now);
	values[5] = BoolGetDatum(suspended);
	if (SPI_execute_with_args("INSERT INTO cdp.segment_errors AS e (segment_id, errors,"
							  " last_error, last_profile, last_at, suspended)"
							  " VALUES ($1, $2, $3, $4, $5, $6)"
							  " ON CONFLICT (segment_id) DO UPDATE SET"
							  " errors = e.errors + excluded.errors,"
							  " last_error = excluded.last_error,"
							  " last_profile = excluded.last_profile,"
							  " last_at = excluded.last_at, suspended = excluded.suspended",
							  6, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not record errors of a segment");
}

/*
 * Count errors in cdp.segment_errors; once per set, also what could not be
 * compiled.
 */
static void
record_errors(Evaluation *e, TimestampTz now)
{
	CdpSegmentColumns *columns = e->set->columns;
	CdpUserContext saved;
	bool		any = !columns->told;

	for (int i = 0; i < e->ntodo; i++)
		any |= e->errors[i].count > 0;
	if (!any || XactReadOnly)
		return;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (!columns->told)
	{
		Oid			type = INT4ARRAYOID;
		Datum		ids = CdpInt4Array(columns->ids, columns->n);

		if (SPI_execute_with_args("UPDATE cdp.segment_errors SET suspended = false"
								  " WHERE suspended AND segment_id = ANY ($1)",
								  1, &type, &ids, NULL, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not record errors of a segment");
		for (int c = 0; c < columns->n; c++)
		{
			if (columns->broken[c] != NULL)
				record_error(columns->ids[c], 0, columns->broken[c], 0, now, true);
		}
		columns->told = true;
	}
	for (int i = 0; i < e->ntodo; i++)
	{
		SegmentErrors *errors = &e->errors[i];

		if (errors->count > 0)
			record_error(e->todo[i]->id, errors->count, errors->last,
						 errors->profile_id, now, false);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
}

/*
 * Count what has been done in the session, and now and then in the table, so
 * that a batch of one entry does not write a row a segment.
 */
typedef struct PendingCount
{
	int32		segment_id;		/* hash key */
	int64		evaluations;
	int64		timed;
	double		us;
} PendingCount;

static HTAB *pending_counts = NULL;

static void
write_counts(void)
{
	Oid			types[] = { INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, FLOAT8ARRAYOID };
	long		n = hash_get_num_entries(pending_counts);
	Datum	   *ids = palloc(n * sizeof(Datum));
	Datum	   *counts = palloc(n * sizeof(Datum));
	Datum	   *timed = palloc(n * sizeof(Datum));
	Datum	   *us = palloc(n * sizeof(Datum));
	Datum		values[4];
	CdpUserContext saved;
	HASH_SEQ_STATUS status;
	PendingCount *pending;
	int			i = 0;

	hash_seq_init(&status, pending_counts);
	while ((pending = (PendingCount *) hash_seq_search(&status)) != NULL)
	{
		ids[i] = Int32GetDatum(pending->segment_id);
		timed[i] = Int64GetDatum(pending->timed);
		us[i] = Float8GetDatum(pending->us);
		counts[i++] = Int64GetDatum(pending->evaluations);
		(void) hash_search(pending_counts, &pending->segment_id, HASH_REMOVE, NULL);
	}
	values[0] = PointerGetDatum(construct_array(ids, i, INT4OID, 4, true, TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(counts, i, INT8OID, 8, FLOAT8PASSBYVAL,
												TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(construct_array(timed, i, INT8OID, 8, FLOAT8PASSBYVAL,
												TYPALIGN_DOUBLE));
	values[3] = PointerGetDatum(construct_array(us, i, FLOAT8OID, 8, FLOAT8PASSBYVAL,
												TYPALIGN_DOUBLE));
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("INSERT INTO cdp.segment_evaluations AS e (segment_id, evaluations, timed, timed_us)"
							  " SELECT u.id, u.n, u.timed, u.us FROM unnest($1, $2, $3, $4) AS u(id, n, timed, us)"
							  " WHERE u.id IN (SELECT d.id FROM cdp.segment_definitions d)"
							  " ON CONFLICT (segment_id) DO UPDATE SET"
							  " evaluations = e.evaluations + excluded.evaluations,"
							  " timed = e.timed + excluded.timed,"
							  " timed_us = e.timed_us + excluded.timed_us",
							  4, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not count evaluations of segments");
	SPI_finish();
	CdpRestoreUser(&saved);
}

static void
count_evaluations(Evaluation *e)
{
	static TimestampTz last = 0;

	if (pending_counts == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(int32);
		ctl.entrysize = sizeof(PendingCount);
		pending_counts = hash_create("cdp evaluations", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	for (int i = 0; i < e->ntodo; i++)
	{
		bool		found;
		PendingCount *pending;

		if (e->evaluated[i] == 0)
			continue;
		pending = (PendingCount *)
			hash_search(pending_counts, &e->todo[i]->id, HASH_ENTER, &found);

		if (!found)
		{
			pending->evaluations = pending->timed = 0;
			pending->us = 0;
		}
		pending->evaluations += e->evaluated[i];
		pending->timed += e->timed[i];
		pending->us += e->us[i];
	}
	if (XactReadOnly || hash_get_num_entries(pending_counts) == 0 ||
		!TimestampDifferenceExceeds(last, GetCurrentTimestamp(), COUNT_INTERVAL))
		return;
	last = GetCurrentTimestamp();
	write_counts();
}

PG_FUNCTION_INFO_V1(cdp_pending_evaluations);

/*
 * cdp.pending_evaluations(segment_id)
 */
Datum
cdp_pending_evaluations(PG_FUNCTION_ARGS)
{
	int32		id = PG_GETARG_INT32(0);
	PendingCount *pending = pending_counts == NULL ? NULL :
		(PendingCount *) hash_search(pending_counts, &id, HASH_FIND, NULL);

	PG_RETURN_INT64(pending == NULL ? 0 : pending->evaluations);
}

/*
 * Which segments are to be evaluated: those in "only" and what they refer to.
 * Referred ones come earlier in the set.
 */
static void
choose_segments(Evaluation *e, const Bitmapset *only)
{
	CdpSegmentSet *set = e->set;
	Bitmapset  *wanted = bms_copy(only);
	bool	   *chosen = palloc0(Max(set->nsegments, 1) * sizeof(bool));

	e->todo = palloc(Max(set->nsegments, 1) * sizeof(CdpSegment *));
	e->safe = true;
	for (int i = set->nsegments - 1; i >= 0; i--)
	{
		CdpSegment *segment = &set->segments[i];
		CdpSegmentRules *rules = segment->rules;

		if (only != NULL && !bms_is_member(rules->column, wanted))
			continue;
		if (e->part != CDP_SEGMENTS_ALL &&
			segment->primary != (e->part == CDP_SEGMENTS_AFTER_ACCOUNTS))
			continue;
		if (!check_owner(segment))
			continue;
		wanted = bms_add_members(wanted, rules->predicate.segments);
		wanted = bms_add_members(wanted, rules->exit_when.segments);
		wanted = bms_add_members(wanted, rules->excluded);
		chosen[i] = true;
		e->safe &= rules->predicate.safe && rules->exit_when.safe &&
			rules->predicate_state != NULL;
	}
	for (int i = 0; i < set->nsegments; i++)
	{
		if (chosen[i])
			e->todo[e->ntodo++] = &set->segments[i];
	}
	e->errors = palloc0(Max(e->ntodo, 1) * sizeof(SegmentErrors));
	e->evaluated = palloc0(Max(e->ntodo, 1) * sizeof(int64));
	e->timed = palloc0(Max(e->ntodo, 1) * sizeof(int64));
	e->us = palloc0(Max(e->ntodo, 1) * sizeof(double));
	bms_free(wanted);
	pfree(chosen);
}

/*
 * Nobody is in a segment to whose purpose he does not consent, whatever else
 * becomes of the segment: also where it is disabled, or cannot be evaluated,
 * and would keep the members that it has.
 */
static void
leave_without_consent(CdpSegmentColumns *columns, const CdpProfileEval *profile,
					  Datum *member)
{
	int			c = -1;

	while ((c = bms_next_member(columns->purposed, c)) >= 0)
		if (DatumGetBool(member[c]) && !CdpSegmentConsents(columns->segments[c], &profile->values))
			member[c] = BoolGetDatum(false);
}

static void
evaluate_chunk(Evaluation *e)
{
	CdpSegmentColumns *columns = e->set->columns;

	for (int i = 0; i < e->nprofiles; i++)
	{
		Datum	   *member = e->member + (Size) i * columns->n;

		for (int c = 0; c < columns->n; c++)
			member[c] = BoolGetDatum(false);
		for (int b = 0; b < e->profiles[i].nbefore; b++)
		{
			int			column = CdpSegmentColumn(e->set, e->profiles[i].before[b]);

			if (column >= 0)
				member[column] = BoolGetDatum(true);
		}
		leave_without_consent(columns, &e->profiles[i], member);
	}

	e->segment = 0;
	e->profile = 0;
	CdpSharedTermsBegin(columns->terms, e->nprofiles);
	if (e->safe)
		run(e);
	else
		run_guarded(e);

	for (int i = 0; i < e->nprofiles; i++)
	{
		CdpProfileEval *profile = &e->profiles[i];
		Datum	   *member = e->member + (Size) i * columns->n;
		int			n = 0;

		for (int c = 0; c < columns->n; c++)
			n += DatumGetBool(member[c]);
		profile->nafter = 0;
		profile->after = n == 0 ? NULL : palloc(n * sizeof(int32));
		for (int c = 0; c < columns->n && n > 0; c++)
		{
			if (DatumGetBool(member[c]))
				profile->after[profile->nafter++] = columns->ids[c];
		}
	}
}

static void
evaluate_some(CdpSegmentSet *set, CdpProfileEval *profiles, int n, TimestampTz now,
			  const Bitmapset *only, bool record, CdpSegmentsPart part)
{
	static unsigned int calls = 0;
	Evaluation	e = {0};
	int			ncolumns = Max(set->columns->n, 1);

	e.set = set;
	e.now = now;
	e.part = part;
	e.timing = record && calls++ % TIMED_CALLS == 1;
	choose_segments(&e, only);
	e.member = palloc((Size) Min(n, CDP_EVALUATION_CHUNK) * ncolumns * sizeof(Datum) + 1);
	e.never_null = palloc0(ncolumns * sizeof(bool));
	for (int start = 0; start < n; start += CDP_EVALUATION_CHUNK)
	{
		e.profiles = profiles + start;
		e.nprofiles = Min(CDP_EVALUATION_CHUNK, n - start);
		evaluate_chunk(&e);
	}
	if (record)
	{
		record_errors(&e, now);
		count_evaluations(&e);
	}
	pfree(e.member);
	pfree(e.never_null);
	pfree(e.todo);
	pfree(e.errors);
	pfree(e.evaluated);
	pfree(e.timed);
	pfree(e.us);
}

void
CdpSegmentsEvaluateSome(CdpSegmentSet *set, CdpProfileEval *profiles, int n,
						TimestampTz now, const Bitmapset *only, bool record)
{
	evaluate_some(set, profiles, n, now, only, record, CDP_SEGMENTS_ALL);
}

void
CdpSegmentsEvaluatePart(CdpSegmentSet *set, CdpProfileEval *profiles, int n, TimestampTz now,
						CdpSegmentsPart part)
{
	evaluate_some(set, profiles, n, now, NULL, true, part);
}

void
CdpSegmentsEvaluate(CdpSegmentSet *set, CdpTraitSet *traits,
					CdpProfileEval *profiles, int n, TimestampTz now)
{
	Assert(set->generation == traits->generation);
	CdpSegmentsEvaluateSome(set, profiles, n, now, NULL, true);
}
