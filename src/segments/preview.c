/*-------------------------------------------------------------------------
 *
 * preview.c
 *	  How large would it be.
 *
 *	  A preview compiles its predicate inside a subtransaction and rolls that
 *	  back.  Behaviour that no segment has asked about before becomes a hidden
 *	  trait there, with its history, exactly as create_segment would make it;
 *	  so a preview is as exact as the segment, and only then waits for the
 *	  applier.
 *
 * IDENTIFICATION
 *	  src/segments/preview.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "segments/predicate.h"

#define PREVIEW_FETCH	512

typedef struct Preview
{
	CdpSegmentDefinition definition;
	CdpTraitSet *traits;
	CdpSegmentSet *set;
	CdpSegmentRules rules;
	Bitmapset  *segments;		/* columns of those that it refers to */
	TimestampTz now;
	Datum	   *member;			/* by column */
	bool	   *never_null;
	int64		members;
	int64		non_members;
	int64		unknown;
	int64		errors;
	int64		enter;
	int64		leave;
} Preview;

/*
 * Compile a definition that is not stored, as the current user.
 */
static void
compile_preview(Preview *preview)
{
	CdpSegmentDefinition *definition = &preview->definition;
	CdpSegmentRules *rules = &preview->rules;
	CdpSegmentColumns *columns;
	List	   *created = NIL;
	ListCell   *lc;
	int			next_term = 0;

	CdpSegmentTextsDefine(definition, &rules->references, &created);
	CdpSegmentCycleCheck(definition, &rules->references);
	CdpMembersSegmentCheck(definition, &rules->references);
	if (created != NIL)
	{
		CdpApplierLock();
		CdpGenerationBump();
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (CdpBackfillHook != NULL)
			CdpBackfillHook(created, NIL, false);
		PopActiveSnapshot();
	}
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	preview->traits = definition->accounts ? CdpAccountTraitSetGet(-1) : CdpTraitSetGet(-1);
	preview->set = CdpSegmentSetGet(-1, preview->traits);
	PopActiveSnapshot();
	columns = preview->set->columns;
	CdpPredicateCompile(definition->predicate, definition->timezone, "predicate",
						&rules->references, &next_term, preview->traits, columns->ids,
						columns->n, &rules->predicate);
	CdpPredicateCompile(definition->exit_when, definition->timezone, "exit_when",
						&rules->references, &next_term, preview->traits, columns->ids,
						columns->n, &rules->exit_when);
	CdpPredicateCheckBuilt(&rules->predicate, preview->traits, preview->set);
	CdpPredicateCheckBuilt(&rules->exit_when, preview->traits, preview->set);
	rules->predicate_state = ExecInitExpr(rules->predicate.expr, NULL);
	rules->exit_state = ExecInitExpr(rules->exit_when.expr, NULL);
	rules->holdout = definition->holdout;
	rules->seed = definition->seed;
	if (definition->options != NULL)
		rules->purpose = CdpSegmentPurpose(definition->options);
	if (rules->purpose != NULL)
		rules->consent = CdpPurposeReferred(rules->purpose, &rules->references,
											preview->traits);
	foreach(lc, definition->exclude)
	{
		int			column = CdpSegmentColumn(preview->set, lfirst_int(lc));

		if (column >= 0)
			rules->excluded = bms_add_member(rules->excluded, column);
	}
	preview->segments = bms_union(rules->predicate.segments, rules->exit_when.segments);
	preview->segments = bms_add_members(preview->segments, rules->excluded);
	preview->member = palloc(Max(columns->n, 1) * sizeof(Datum));
	preview->never_null = palloc0(Max(columns->n, 1) * sizeof(bool));
}

/*
 * Fill in which of the segments that the predicate refers to it is in as of now.
 */
static void
evaluate_referred(Preview *preview, CdpProfileEval *profile)
{
	for (int i = 0; i < preview->set->columns->n; i++)
		preview->member[i] = BoolGetDatum(false);
	if (bms_is_empty(preview->segments))
		return;
	CdpSegmentsEvaluateSome(preview->set, profile, 1, preview->now,
							preview->segments, false);
	for (int i = 0; i < profile->nafter; i++)
	{
		int			column = CdpSegmentColumn(preview->set, profile->after[i]);

		if (column >= 0)
			preview->member[column] = BoolGetDatum(true);
	}
}

static bool
is_in(const int32 *ids, int n, int32 id)
{
	for (int i = 0; i < n; i++)
	{
		if (ids[i] == id)
			return true;
	}
	return false;
}

/*
 * The same decision as in evaluate.c, and what it is counted as.
 */
static bool
count_value(Preview *preview, int64 profile_id, CdpProfileValues *values, bool was)
{
	bool		isnull = false;
	bool		is = CdpSegmentHolds(&preview->rules, preview->set->columns->slots, profile_id,
									 values, preview->member, preview->never_null, was, &isnull);

	if (is)
		preview->members++;
	else if (isnull)
		preview->unknown++;
	else
		preview->non_members++;
	return is;
}

/*
 * The same for a predicate that may raise an error.
 */
static bool
count_guarded(Preview *preview, int64 profile_id, CdpProfileValues *values, bool was)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	volatile bool is = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcontext);
	PG_TRY();
	{
		is = count_value(preview, profile_id, values, was);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = oldowner;
		if (!CdpErrorIsLocal(error->sqlerrcode))
			ReThrowError(error);
		preview->errors++;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;
	return is;
}

/*
 * One profile or account, whose values are known.
 */
static void
count_one(Preview *preview, CdpProfileEval *profile)
{
	CdpSegmentRules *rules = &preview->rules;
	Oid			userid;
	int			sec_context;
	bool		is;
	bool		was;

	evaluate_referred(preview, profile);
	CdpEnvironmentInstant(preview->set->columns->slots, preview->now);
	if (rules->predicate.of_primary != NULL || rules->exit_when.of_primary != NULL)
		CdpEnvironmentPrimary(preview->set->columns->slots, profile->primary);
	if (rules->predicate.identity || rules->exit_when.identity)
		CdpEnvironmentIdentity(preview->set->columns->slots, preview->set->generation,
							   profile->identifiers, profile->nidentifiers);

	was = is_in(profile->before, profile->nbefore, preview->definition.id);
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(userid, sec_context | SECURITY_RESTRICTED_OPERATION);
	if (rules->predicate.safe && rules->exit_when.safe)
		is = count_value(preview, profile->profile_id, &profile->values, was);
	else
		is = count_guarded(preview, profile->profile_id, &profile->values, was);
	SetUserIdAndSecContext(userid, sec_context);
	preview->enter += is && !was;
	preview->leave += was && !is;
}

static void
count_profile(Preview *preview, int64 profile_id)
{
	CdpSegmentRules *rules = &preview->rules;
	CdpProfileNodes nodes;
	CdpProfileEval profile = {0};

	if (!CdpProfileRead(profile_id, preview->traits, &nodes))
		return;
	profile.profile_id = profile_id;
	CdpProfileEvaluate(preview->traits, nodes.accs, nodes.nnodes, preview->now, &profile.values);
	profile.nbefore = nodes.nsegments;
	profile.before = nodes.segments;
	profile.identifiers = CdpProfileIdentifiers(&nodes);
	profile.nidentifiers = nodes.nnodes;
	if (rules->predicate.of_primary != NULL || rules->exit_when.of_primary != NULL ||
		(preview->set->primary && !bms_is_empty(preview->segments)))
		CdpPrimaryAccountRead(preview->set->generation, &profile, preview->now);
	count_one(preview, &profile);
}

/*
 * All profiles, in batches of a cursor.
 */
static void
count_profiles(Preview *preview, const char *timezone)
{
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext, "cdp preview",
												ALLOCSET_DEFAULT_SIZES);
	CdpUserContext saved;
	SPIPlanPtr	plan;
	Portal		portal;
	int			nest_level;

	CdpBecomeOwner(&saved);
	SPI_connect();
	plan = SPI_prepare("SELECT node_id FROM cdp.identities WHERE node_id = profile_id", 0, NULL);
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	CdpRestoreUser(&saved);

	nest_level = CdpPinSettings(timezone);
	for (;;)
	{
		CdpUserContext fetching;
		uint64		n;

		CdpBecomeOwner(&fetching);
		SPI_cursor_fetch(portal, true, PREVIEW_FETCH);
		CdpRestoreUser(&fetching);
		n = SPI_processed;
		if (n == 0)
			break;
		for (uint64 i = 0; i < n; i++)
		{
			MemoryContext oldcontext = MemoryContextSwitchTo(batch);
			bool		isnull;

			CHECK_FOR_INTERRUPTS();
			count_profile(preview,
						  DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
													  SPI_tuptable->tupdesc, 1, &isnull)));
			MemoryContextSwitchTo(oldcontext);
			MemoryContextReset(batch);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	CdpUnpinSettings(nest_level);
	SPI_cursor_close(portal);
	SPI_finish();
	MemoryContextDelete(batch);
}

/*
 * The next accounts by number, with their values; palloc'd in the current
 * context.
 */
static CdpAccountRow *
read_accounts(Preview *preview, int64 after, int *n)
{
	MemoryContext context = CurrentMemoryContext;
	CdpUserContext saved;
	CdpAccountRow *rows;
	Oid			types[] = {INT8OID};
	Datum		args[1] = {Int64GetDatum(after)};
	int64	   *ids;
	bool		isnull;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT a.account_id FROM cdp.account_identities a"
							  " WHERE a.account_id > $1 ORDER BY a.account_id",
							  1, types, args, NULL, true, PREVIEW_FETCH) != SPI_OK_SELECT)
		elog(ERROR, "could not read accounts");
	*n = (int) SPI_processed;
	MemoryContextSwitchTo(context);
	ids = palloc(sizeof(int64) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		ids[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1,
											 &isnull));
	rows = CdpAccountsRead(preview->traits, ids, *n, preview->now, CdpMembersNowRead, n);
	SPI_finish();
	CdpRestoreUser(&saved);
	MemoryContextSwitchTo(context);
	return rows;
}

/*
 * All accounts.
 */
static void
count_accounts(Preview *preview, const char *timezone)
{
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext, "cdp preview",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(batch);
	int64		after = 0;

	for (;;)
	{
		int			n;
		CdpAccountRow *rows = read_accounts(preview, after, &n);
		int			nest_level;

		if (n == 0)
			break;
		after = rows[n - 1].id;
		nest_level = CdpPinSettings(timezone);
		for (int i = 0; i < n; i++)
		{
			CdpProfileEval account = {0};

			CHECK_FOR_INTERRUPTS();
			account.profile_id = rows[i].id;
			account.values = rows[i].values;
			account.nbefore = rows[i].nsegments;
			account.before = rows[i].segments;
			count_one(preview, &account);
		}
		CdpUnpinSettings(nest_level);
		MemoryContextReset(batch);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(batch);
}

/*
 * What is to be looked at: the given definition, and what it does not say is
 * that of the segment with which it is compared.
 */
static void
read_preview(FunctionCallInfo fcinfo, CdpSegmentDefinition *out)
{
	memset(out, 0, sizeof(CdpSegmentDefinition));
	if (!PG_ARGISNULL(2))
	{
		char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(2));

		(void) CdpSegmentIdByName(name);
		(void) CdpSegmentDefinitionRead(name, out);
	}
	else
	{
		char	   *entity = PG_ARGISNULL(7) ? "profile" :
			text_to_cstring(PG_GETARG_TEXT_PP(7));

		out->accounts = CdpSegmentOfAccounts(entity);
		out->name = pstrdup("preview");
		out->timezone = pstrdup("UTC");
		out->seed = pstrdup("");
	}
	out->owner = GetUserNameFromId(GetUserId(), false);
	if (!PG_ARGISNULL(0))
		out->predicate = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (out->predicate == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"predicate\" must not be null"),
				 errhint("Without it a segment must be given.")));
	if (!PG_ARGISNULL(1))
		out->timezone = text_to_cstring(PG_GETARG_TEXT_PP(1));
	CdpSegmentCheckTimezone(out->timezone);
	if (!PG_ARGISNULL(3))
	{
		out->exit_when = text_to_cstring(PG_GETARG_TEXT_PP(3));
		out->exit_when = out->exit_when[0] == '\0' ? NULL : CdpPredicateFromText(out->exit_when);
	}
	if (!PG_ARGISNULL(4))
		out->exclude = CdpSegmentIds(PG_GETARG_ARRAYTYPE_P(4), out->accounts);
	if (!PG_ARGISNULL(5))
		out->holdout = CdpSegmentCheckHoldout(PG_GETARG_FLOAT8(5));
	if (!PG_ARGISNULL(6))
		out->seed = text_to_cstring(PG_GETARG_TEXT_PP(6));
}

PG_FUNCTION_INFO_V1(cdp_preview_segment);

/*
 * cdp.preview_segment(predicate, timezone, segment, exit_when, exclude,
 * holdout, seed, entity)
 */
Datum
cdp_preview_segment(PG_FUNCTION_ARGS)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	Preview    *preview = palloc0(sizeof(Preview));
	TimestampTz applied;
	TupleDesc	desc;
	Datum		values[6];
	bool		nulls[6] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	read_preview(fcinfo, &preview->definition);
	(void) CdpApplierGlance(&applied);
	preview->now = CdpReadInstant(applied);

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcontext);
	PG_TRY();
	{
		compile_preview(preview);
		PushActiveSnapshot(GetTransactionSnapshot());
		if (preview->definition.accounts)
			count_accounts(preview, preview->definition.timezone);
		else
			count_profiles(preview, preview->definition.timezone);
		PopActiveSnapshot();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* an internal subtransaction must not be left open */
		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcontext);
		CurrentResourceOwner = oldowner;
		if (error->sqlerrcode == ERRCODE_READ_ONLY_SQL_TRANSACTION)
			ereport(ERROR,
					(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
					 errmsg("the predicate asks what no segment asks yet, and the transaction is read-only"),
					 errdetail("History would have to be folded for it."),
					 errhint("%scdp.matches() tells of one profile without that.",
							 RecoveryInProgress() ? "Ask on the primary server; " :
							 "Ask in a transaction that may write; ")));
		ReThrowError(error);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;

	values[0] = Int64GetDatum(preview->members);
	values[1] = Int64GetDatum(preview->non_members);
	values[2] = Int64GetDatum(preview->unknown);
	values[3] = Int64GetDatum(preview->errors);
	values[4] = Int64GetDatum(preview->enter);
	values[5] = Int64GetDatum(preview->leave);
	nulls[4] = nulls[5] = preview->definition.id == 0;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
