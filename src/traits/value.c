/*-------------------------------------------------------------------------
 *
 * value.c
 *	  From the states of a profile's nodes to its values at an instant.
 *
 *	  Computed traits first, then typed declared ones, then derived ones in
 *	  order of dependency.  Nothing is stored: a merge or a split changes which
 *	  nodes come together here, and moves no state.
 *
 * IDENTIFICATION
 *	  src/traits/value.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "sensitive.h"
#include "traits/node.h"
#include "traits/traitset.h"

/* Progress through what may fail, kept where an error does not lose it. */
typedef struct ValueRun
{
	CdpTraitSet *set;
	CdpProfileStates *profiles;
	int			nprofiles;
	int			step;			/* position in the list of traits that may fail */
	int			profile;
} ValueRun;

/*
 * A scalar, or a container, as a JsonbValue; what it points to lives as long
 * as value does, or in the current context.
 */
void
CdpValueToJsonbValue(Datum value, bool isnull, Oid type, JsonbValue *v)
{
	char		buf[MAXDATELEN + 1];
	struct pg_itm itm;
	int			utc = 0;
	Jsonb	   *jsonb;
	FmgrInfo	flinfo;
	Numeric		number;

	v->type = jbvNull;
	if (isnull)
		return;
	switch (type)
	{
		case BOOLOID:
			v->type = jbvBool;
			v->val.boolean = DatumGetBool(value);
			return;
		case INT2OID:
			number = int64_to_numeric(DatumGetInt16(value));
			break;
		case INT4OID:
			number = int64_to_numeric(DatumGetInt32(value));
			break;
		case INT8OID:
			number = int64_to_numeric(DatumGetInt64(value));
			break;
		case NUMERICOID:
			number = DatumGetNumeric(value);
			break;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			{
				text	   *string = DatumGetTextPP(value);

				v->type = jbvString;
				v->val.string.len = VARSIZE_ANY_EXHDR(string);
				v->val.string.val = VARDATA_ANY(string);
				return;
			}
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			/* always in UTC: the same value is the same text everywhere */
			JsonEncodeDateTime(buf, value, type,
							   type == TIMESTAMPTZOID ? &utc : NULL);
			v->type = jbvString;
			v->val.string.len = strlen(buf);
			v->val.string.val = pstrdup(buf);
			return;
		case INTERVALOID:
			/* the same text whatever IntervalStyle is */
			interval2itm(*DatumGetIntervalP(value), &itm);
			EncodeInterval(&itm, INTSTYLE_POSTGRES, buf);
			v->type = jbvString;
			v->val.string.len = strlen(buf);
			v->val.string.val = pstrdup(buf);
			return;
		case JSONBOID:
			jsonb = DatumGetJsonbP(value);
			if (!JB_ROOT_IS_SCALAR(jsonb) ||
				!JsonbExtractScalar(&jsonb->root, v))
			{
				v->type = jbvBinary;
				v->val.binary.data = &jsonb->root;
				v->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
			}
			return;
		default:
			/* whatever to_jsonb makes of it */
			fmgr_info(F_TO_JSONB, &flinfo);
			flinfo.fn_expr = (Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
												   list_make1(makeNullConst(type, -1, InvalidOid)),
												   InvalidOid, InvalidOid,
												   COERCE_EXPLICIT_CALL);
			CdpValueToJsonbValue(FunctionCall1(&flinfo, value), false, JSONBOID, v);
			return;
	}

	/* JSON has no word for these */
	if (numeric_is_nan(number) || numeric_is_inf(number))
	{
		v->type = jbvString;
		v->val.string.val = DatumGetCString(DirectFunctionCall1(numeric_out,
																NumericGetDatum(number)));
		v->val.string.len = strlen(v->val.string.val);
	}
	else
	{
		v->type = jbvNumeric;
		v->val.numeric = number;
	}
}

Datum
CdpValueToJsonb(Datum value, bool isnull, Oid type)
{
	JsonbValue	v;

	CdpValueToJsonbValue(value, isnull, type, &v);
	if (v.type == jbvString && v.val.string.len > JENTRY_OFFLENMASK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("string too long to represent as jsonb string")));
	return JsonbPGetDatum(JsonbValueToJsonb(&v));
}

/* A counting aggregate's value of nothing. */
static bool
value_is_empty(CdpAggregate aggregate, Datum value)
{
	switch (aggregate)
	{
		case CDP_AGG_COUNT:
		case CDP_AGG_UNIQUE_COUNT:
		case CDP_AGG_SESSIONS:
		case CDP_AGG_LONGEST_STREAK:
			return DatumGetInt64(value) == 0;
		case CDP_AGG_EXISTS:
			return !DatumGetBool(value);
		default:
			return false;
	}
}

/*
 * The latest write of a key over all nodes; NULL when no node has it.
 */
static CdpDeclared *
latest_declared(CdpNodeAcc **nodes, int nnodes, const char *key, int keylen)
{
	CdpDeclared *best = NULL;

	for (int i = 0; i < nnodes; i++)
	{
		bool		found;
		int			position = CdpNodeDeclaredSearch(nodes[i], key, keylen, &found);
		CdpDeclared *declared;

		if (!found)
			continue;
		declared = &nodes[i]->declared[position];
		if (best == NULL ||
			CdpOrderCompare(declared->at, declared->tie, best->at, best->tie) > 0)
			best = declared;
	}
	return best;
}

bool
CdpSameKeyAnyCase(const char *a, int alen, const char *b, int blen)
{
	if (alen != blen)
		return false;
	for (int i = 0; i < alen; i++)
		if (pg_ascii_tolower((unsigned char) a[i]) !=
			pg_ascii_tolower((unsigned char) b[i]))
			return false;
	return true;
}

/*
 * The write that a declared trait means: of its very key, else of the one key
 * of this profile that differs only in case.
 */
static CdpDeclared *
find_declared(CdpNodeAcc **nodes, int nnodes, const char *key)
{
	int			keylen = strlen(key);
	CdpDeclared *best = latest_declared(nodes, nnodes, key, keylen);
	CdpDeclared *other = NULL;

	if (best != NULL)
		return best;
	for (int i = 0; i < nnodes; i++)
	{
		for (int j = 0; j < nodes[i]->ndeclared; j++)
		{
			CdpDeclared *declared = &nodes[i]->declared[j];

			if (!CdpSameKeyAnyCase(declared->key, declared->keylen, key, keylen))
				continue;
			if (other != NULL &&
				(other->keylen != declared->keylen ||
				 memcmp(other->key, declared->key, other->keylen) != 0))
				return NULL;	/* two of them: neither is meant */
			other = declared;
		}
	}
	return other == NULL ? NULL :
		latest_declared(nodes, nnodes, other->key, other->keylen);
}

/*
 * A JSON array as the text of an array of SQL: elements as their text, those
 * that are no scalars as JSON.
 */
static char *
array_text(Jsonb *array)
{
	StringInfoData out;
	JsonbIterator *it = JsonbIteratorInit(&array->root);
	JsonbValue	v;
	JsonbIteratorToken token;

	initStringInfo(&out);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *element;

		CHECK_FOR_INTERRUPTS();
		if (token != WJB_ELEM)
			continue;
		appendStringInfoChar(&out, out.len == 0 ? '{' : ',');
		if (v.type == jbvNull)
		{
			appendStringInfoString(&out, "NULL");
			continue;
		}
		if (v.type == jbvString)
			element = pnstrdup(v.val.string.val, v.val.string.len);
		else if (v.type == jbvBool)
			element = pstrdup(v.val.boolean ? "true" : "false");
		else if (v.type == jbvNumeric)
			element = DatumGetCString(DirectFunctionCall1(numeric_out,
														  NumericGetDatum(v.val.numeric)));
		else
			element = JsonbToCString(NULL, v.val.binary.data, v.val.binary.len);
		appendStringInfoChar(&out, '"');
		for (const char *p = element; *p != '\0'; p++)
		{
			if (*p == '"' || *p == '\\')
				appendStringInfoChar(&out, '\\');
			appendStringInfoChar(&out, *p);
		}
		appendStringInfoChar(&out, '"');
		pfree(element);
	}
	if (out.len == 0)
		appendStringInfoChar(&out, '{');
	appendStringInfoChar(&out, '}');
	return out.data;
}

/*
 * A declared trait's value in its type: by way of text, as a cast would.
 */
static void
declared_value(CdpProfileStates *profile, CdpTrait *trait)
{
	CdpTraitRules *rules = trait->rules;
	CdpProfileValues *out = profile->out;
	CdpDeclared *declared = find_declared(profile->nodes, profile->nnodes,
										  rules->definition->key ?
										  rules->definition->key : trait->name);
	JsonbValue	v;
	char	   *string;

	if (declared == NULL || declared->value == NULL)
		return;
	if (trait->type == JSONBOID)
	{
		out->values[trait->index] = JsonbPGetDatum(declared->value);
		out->isnull[trait->index] = false;
		return;
	}
	if (JB_ROOT_IS_SCALAR(declared->value) &&
		JsonbExtractScalar(&declared->value->root, &v))
	{
		/* the common cases need no detour */
		if (v.type == jbvNumeric && trait->type == NUMERICOID &&
			rules->typmod < 0)
		{
			out->values[trait->index] = NumericGetDatum(v.val.numeric);
			out->isnull[trait->index] = false;
			return;
		}
		if (v.type == jbvString)
			string = pnstrdup(v.val.string.val, v.val.string.len);
		else if (v.type == jbvBool)
			string = pstrdup(v.val.boolean ? "true" : "false");
		else
			string = DatumGetCString(DirectFunctionCall1(numeric_out,
														 NumericGetDatum(v.val.numeric)));
	}
	else if (JB_ROOT_IS_ARRAY(declared->value) && OidIsValid(get_element_type(trait->type)))
		string = array_text(declared->value);
	else
		string = JsonbToCString(NULL, &declared->value->root,
								VARSIZE(declared->value));
	if (rules->pinned && CdpHasClockWord(string))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
				 errmsg("time \"%s\" is relative to the clock", string)));
	out->values[trait->index] = InputFunctionCall(&rules->input, string,
													   rules->typioparam,
													   rules->typmod);
	out->isnull[trait->index] = false;
}

static void
derived_value(CdpTraitSet *set, CdpProfileValues *out, CdpTrait *trait)
{
	CdpTraitRules *rules = trait->rules;
	CdpTraitIndex *lookup = set->lookup;
	ExprContext *econtext = lookup->econtext;
	TupleTableSlot *slot = lookup->valueslot;
	bool		isnull;
	Datum		value;

	slot->tts_values = out->values;
	slot->tts_isnull = out->isnull;
	slot->tts_nvalid = set->ntraits;
	slot->tts_flags &= ~TTS_FLAG_EMPTY;
	econtext->ecxt_scantuple = slot;
	/* the caller's context is reset by the caller, and keeps the value */
	value = ExecEvalExpr(rules->exprstate, econtext, &isnull);
	if (!isnull)
	{
		if (trait->typlen == -1)
			value = PointerGetDatum(PG_DETOAST_DATUM(value));
		out->values[trait->index] = value;
		out->isnull[trait->index] = false;
	}
	else if (rules->has_empty)
	{
		out->values[trait->index] = rules->empty;
		out->isnull[trait->index] = false;
	}
}

/* A value that is not there, or does not fit, is the one for nothing. */
static void
use_empty(CdpProfileValues *out, CdpTrait *trait)
{
	if (out->isnull[trait->index] && trait->rules->has_empty)
	{
		out->values[trait->index] = trait->rules->empty;
		out->isnull[trait->index] = false;
	}
}

/*
 * Go on with the traits whose evaluation may fail: trait by trait, so that user
 * and settings change once a trait and not once a profile.
 */
static void
run_fallible(ValueRun *run)
{
	CdpTraitIndex *lookup = run->set->lookup;

	for (; run->step < lookup->nfallible; run->step++)
	{
		CdpTrait   *trait = run->set->traits[lookup->fallible[run->step]];
		CdpTraitRules *rules = trait->rules;
		Oid			userid;
		int			sec_context;
		int			nest_level = 0;

		if (rules->suspended || trait->building)
			continue;
		GetUserIdAndSecContext(&userid, &sec_context);
		if (rules->owner != userid && trait->aggregate == CDP_AGG_EXPRESSION)
			SetUserIdAndSecContext(rules->owner,
								   sec_context | SECURITY_RESTRICTED_OPERATION);
		if (rules->pinned)
			nest_level = CdpPinSettings(rules->definition->timezone);
		for (; run->profile < run->nprofiles; run->profile++)
		{
			CdpProfileStates *profile = &run->profiles[run->profile];

			if ((run->profile & 0xFF) == 0xFF)
				CHECK_FOR_INTERRUPTS();
			if (trait->aggregate == CDP_AGG_DECLARED)
			{
				declared_value(profile, trait);
				use_empty(profile->out, trait);
			}
			else
				derived_value(run->set, profile->out, trait);
		}
		run->profile = 0;
		if (rules->pinned)
			CdpUnpinSettings(nest_level);
		SetUserIdAndSecContext(userid, sec_context);
	}
}

/*
 * The same in a subtransaction; after an error, in another one, behind the
 * trait and profile that failed.
 */
static void
run_fallible_protected(ValueRun *run)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	while (run->step < run->set->lookup->nfallible)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			run_fallible(run);
			ReleaseCurrentSubTransaction();
			MemoryContextSwitchTo(context);
			CurrentResourceOwner = owner;
		}
		PG_CATCH();
		{
			ErrorData  *edata;
			CdpTrait   *trait;

			MemoryContextSwitchTo(context);
			edata = CopyErrorData();
			FlushErrorState();
			RollbackAndReleaseCurrentSubTransaction();
			MemoryContextSwitchTo(context);
			CurrentResourceOwner = owner;
			if (run->step >= run->set->lookup->nfallible ||
				run->profile >= run->nprofiles || !CdpSwallowError(edata))
				ReThrowError(edata);
			trait = run->set->traits[run->set->lookup->fallible[run->step]];
			CdpTraitErrorCount(trait->id, 0, edata->message);
			FreeErrorData(edata);
			if (trait->aggregate == CDP_AGG_DECLARED)
				use_empty(run->profiles[run->profile].out, trait);
			run->profile++;
		}
		PG_END_TRY();
	}
}

/*
 * Can all be done without a subtransaction?  Declared traits when every value
 * already has the JSON type that its trait wants, derived ones when they only
 * compare.
 */
static bool
harmless(CdpTraitSet *set, CdpProfileStates *profile)
{
	CdpTraitIndex *lookup = set->lookup;

	for (int i = 0; i < lookup->nfallible; i++)
	{
		CdpTrait   *trait = set->traits[lookup->fallible[i]];
		CdpTraitRules *rules = trait->rules;
		CdpDeclared *declared;
		JsonbValue	v;

		if (rules->suspended || trait->building)
			continue;
		if (trait->aggregate != CDP_AGG_DECLARED)
		{
			if (rules->safe)
				continue;
			return false;
		}
		declared = find_declared(profile->nodes, profile->nnodes,
								 rules->definition->key ?
								 rules->definition->key : trait->name);
		if (declared == NULL || declared->value == NULL ||
			trait->type == JSONBOID || (trait->type == TEXTOID && rules->typmod < 0))
			continue;
		if (!JB_ROOT_IS_SCALAR(declared->value) ||
			!JsonbExtractScalar(&declared->value->root, &v))
			return false;
		if ((v.type == jbvNumeric && trait->type == NUMERICOID && rules->typmod < 0) ||
			(v.type == jbvBool && trait->type == BOOLOID))
			continue;
		return false;
	}
	return true;
}

/* What the states of a profile's nodes say, without declared and derived traits. */
static void
computed_values(CdpTraitSet *set, CdpProfileStates *profile, TimestampTz now)
{
	CdpProfileValues *out = profile->out;
	CdpState  **states;

	states = (CdpState **) palloc(mul_size(Max(profile->nnodes, 1), sizeof(CdpState *)));
	out->values = (Datum *) palloc0(mul_size(Max(set->ntraits, 1), sizeof(Datum)));
	out->isnull = (bool *) palloc(Max(set->ntraits, 1));
	memset(out->isnull, true, Max(set->ntraits, 1));
	out->next = DT_NOEND;

	for (int i = 0; i < set->ntraits; i++)
	{
		CdpTrait   *trait = set->traits[i];
		CdpTraitRules *rules = trait->rules;
		int			nstates = 0;
		bool		has_value = false;

		if (rules->suspended || trait->building ||
			trait->aggregate == CDP_AGG_DECLARED ||
			trait->aggregate == CDP_AGG_EXPRESSION ||
			(profile->only != NULL && !bms_is_member(i, profile->only)))
			continue;
		if (trait->member_trait != 0)
		{
			if (profile->given != NULL && !profile->given->isnull[i])
			{
				out->values[i] = profile->given->values[i];
				out->isnull[i] = false;
			}
			use_empty(out, trait);
			continue;
		}
		for (int j = 0; j < profile->nnodes; j++)
		{
			CdpState   *state = CdpNodeState(profile->nodes[j], i);

			if (state != NULL)
				states[nstates++] = state;
		}
		if (nstates > 0)
			has_value = CdpStateFinish(&rules->state, states, nstates, now,
									   &out->values[i], &out->next);
		/* "empty" speaks for a profile that has no item now */
		if (rules->has_empty &&
			(!has_value || value_is_empty(trait->aggregate, out->values[i])))
			out->values[i] = rules->empty;
		else if (!has_value)
			continue;
		out->isnull[i] = false;
	}
	pfree(states);
}

void
CdpProfileEvaluateAll(CdpTraitSet *set, CdpProfileStates *profiles, int nprofiles,
					  TimestampTz now)
{
	CdpTraitIndex *lookup = set->lookup;
	ValueRun	run = {set, profiles, nprofiles, 0, 0};
	bool		can_fail = false;

	for (int i = 0; i < nprofiles; i++)
	{
		CHECK_FOR_INTERRUPTS();
		computed_values(set, &profiles[i], now);
		for (int j = 0; lookup->nfallible > 0 && j < profiles[i].nnodes; j++)
			CdpNodeDeclared(profiles[i].nodes[j]);
		can_fail = can_fail ||
			(lookup->nfallible > 0 && !IsInParallelMode() && !harmless(set, &profiles[i]));
	}
	if (lookup->nfallible == 0 || nprofiles == 0)
		return;
	if (can_fail)
		run_fallible_protected(&run);
	else
		run_fallible(&run);
	lookup->valueslot->tts_flags |= TTS_FLAG_EMPTY;
	lookup->valueslot->tts_nvalid = 0;
}

void
CdpProfileEvaluate(CdpTraitSet *set, CdpNodeAcc **nodes, int nnodes,
				   TimestampTz now, CdpProfileValues *out)
{
	CdpProfileStates profile = {nodes, nnodes, out};

	CdpProfileEvaluateAll(set, &profile, 1, now);
}

static void
push_pair(JsonbParseState **state, const char *key, int keylen, JsonbValue *value)
{
	JsonbValue	k;

	k.type = jbvString;
	k.val.string.len = keylen;
	k.val.string.val = unconstify(char *, key);
	pushJsonbValue(state, WJB_KEY, &k);
	pushJsonbValue(state, WJB_VALUE, value);
}

static void
mask(JsonbValue *value)
{
	value->type = jbvString;
	value->val.string.val = pstrdup(CDP_MASK);
	value->val.string.len = strlen(CDP_MASK);
}

/*
 * Is the trait's value hidden from the session's user?  By its name, by the
 * key that it is declared by, be it of a trait or of a kind of identifiers
 * (email is both), or as it is computed from one that is.
 */
bool
CdpTraitHidden(CdpTraitSet *set, const CdpTrait *trait)
{
	CdpSensitive what = set->accounts ? CDP_SENSITIVE_ACCOUNT_TRAIT : CDP_SENSITIVE_TRAIT;
	const char *key = trait->rules->definition->key;
	int			i = -1;

	if (CdpHidden(what, trait->name, strlen(trait->name)) ||
		CdpHidden(CDP_SENSITIVE_KIND, trait->name, strlen(trait->name)) ||
		(trait->aggregate == CDP_AGG_DECLARED && key != NULL &&
		 (CdpHidden(what, key, strlen(key)) ||
		  CdpHidden(CDP_SENSITIVE_KIND, key, strlen(key)))))
		return true;
	if (!CdpAnythingHidden())
		return false;
	while ((i = bms_next_member(trait->depends, i)) >= 0)
		if (CdpTraitHidden(set, set->traits[i]))
			return true;
	return false;
}

PG_FUNCTION_INFO_V1(cdp_hidden);

/*
 * cdp.hidden(object text, name text) returns boolean: kind, trait or
 * account_trait.  Of a trait that is no more nobody knows what it was computed
 * from.
 */
Datum
cdp_hidden(PG_FUNCTION_ARGS)
{
	text	   *object = PG_GETARG_TEXT_PP(0);
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	CdpSensitive what = VARSIZE_ANY_EXHDR(object) > 0 ? (CdpSensitive) VARDATA_ANY(object)[0] :
		CDP_SENSITIVE_TRAIT;
	CdpTraitSet *set;
	CdpTrait   *trait;

	if (!CdpAnythingHidden())
		PG_RETURN_BOOL(false);
	if (what == CDP_SENSITIVE_KIND)
		PG_RETURN_BOOL(CdpHidden(what, name, strlen(name)));
	set = what == CDP_SENSITIVE_ACCOUNT_TRAIT ? CdpAccountTraitSetGet(-1) : CdpTraitSetGet(-1);
	trait = CdpTraitByName(set, name);
	PG_RETURN_BOOL(trait == NULL || CdpTraitHidden(set, trait));
}

/*
 * Values of the visible traits; with "raw" also every declared key as it was
 * written, in place of the typed declared traits.
 */
static Jsonb *
traits_json(CdpTraitSet *set, CdpNodeAcc **nodes, int nnodes,
			CdpProfileValues *values, bool raw)
{
	CdpSensitive what = set->accounts ? CDP_SENSITIVE_ACCOUNT_TRAIT : CDP_SENSITIVE_TRAIT;
	bool		hiding = CdpAnythingHidden();
	JsonbParseState *state = NULL;
	JsonbValue	v;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; raw && i < nnodes; i++)
	{
		CdpNodeDeclared(nodes[i]);
		for (int j = 0; j < nodes[i]->ndeclared; j++)
		{
			CdpDeclared *declared = &nodes[i]->declared[j];

			if (nnodes > 1)
				declared = latest_declared(nodes, nnodes, declared->key,
										   declared->keylen);
			if (declared != &nodes[i]->declared[j] || declared->value == NULL)
				continue;
			CdpValueToJsonbValue(JsonbPGetDatum(declared->value), false, JSONBOID, &v);
			if (hiding && (CdpHidden(what, declared->key, declared->keylen) ||
						   CdpHidden(CDP_SENSITIVE_KIND, declared->key, declared->keylen)))
				mask(&v);
			push_pair(&state, declared->key, declared->keylen, &v);
		}
	}
	/* of equal keys the last stays: a computed trait hides a declared key */
	for (int i = 0; i < set->ntraits; i++)
	{
		CdpTrait   *trait = set->traits[i];

		if (trait->hidden || values->isnull[i] ||
			(raw && trait->aggregate == CDP_AGG_DECLARED))
			continue;
		CdpValueToJsonbValue(values->values[i], false, trait->type, &v);
		if (hiding && CdpTraitHidden(set, trait))
		{
			/* a column of cdp.profile_traits has the trait's type: NULL */
			if (!raw)
				continue;
			mask(&v);
		}
		push_pair(&state, trait->name, strlen(trait->name), &v);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

Jsonb *
CdpProfileTraitsJson(CdpTraitSet *set, CdpNodeAcc **nodes, int nnodes,
					 TimestampTz now)
{
	CdpProfileValues values;

	CdpProfileEvaluate(set, nodes, nnodes, now, &values);
	return traits_json(set, nodes, nnodes, &values, true);
}

Jsonb *
CdpProfileValuesJson(CdpTraitSet *set, CdpNodeAcc **nodes, int nnodes,
					 CdpProfileValues *values)
{
	return traits_json(set, nodes, nnodes, values, true);
}

/*
 * Aggregates over a profile's node states: cdp.traits_json (what people see)
 * and cdp.trait_values (what the columns of cdp.profile_traits are cut from).
 */

PG_FUNCTION_INFO_V1(cdp_node_states_step);
PG_FUNCTION_INFO_V1(cdp_traits_json_final);
PG_FUNCTION_INFO_V1(cdp_trait_values_final);

typedef struct NodeStates
{
	int			n;
	int			max;
	struct varlena **states;
} NodeStates;

Datum
cdp_node_states_step(PG_FUNCTION_ARGS)
{
	MemoryContext aggcontext;
	MemoryContext old;
	NodeStates *collected;

	if (!AggCheckCallContext(fcinfo, &aggcontext))
		elog(ERROR, "cdp_node_states_step called in non-aggregate context");
	old = MemoryContextSwitchTo(aggcontext);
	if (PG_ARGISNULL(0))
	{
		collected = (NodeStates *) palloc(sizeof(NodeStates));
		collected->n = 0;
		collected->max = 2;
		collected->states = palloc(collected->max * sizeof(struct varlena *));
	}
	else
		collected = (NodeStates *) PG_GETARG_POINTER(0);
	if (!PG_ARGISNULL(1))
	{
		if (collected->n >= collected->max)
		{
			collected->max *= 2;
			collected->states = repalloc(collected->states,
										 mul_size(collected->max, sizeof(struct varlena *)));
		}
		collected->states[collected->n++] =
			(struct varlena *) PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(1));
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_POINTER(collected);
}

static Jsonb *
final_json(FunctionCallInfo fcinfo, bool raw)
{
	NodeStates *collected = PG_ARGISNULL(0) ? NULL : (NodeStates *) PG_GETARG_POINTER(0);
	CdpProfileValues values;
	int			n = collected ? collected->n : 0;
	TimestampTz *now = (TimestampTz *) fcinfo->flinfo->fn_extra;
	CdpTraitSet *set;
	CdpNodeAcc **nodes;
	int64		generation;

	/* one instant and one generation for the whole query */
	if (now == NULL)
	{
		TimestampTz clock;

		now = (TimestampTz *) MemoryContextAlloc(fcinfo->flinfo->fn_mcxt,
												 sizeof(TimestampTz) + sizeof(int64));
		generation = CdpApplierGlance(&clock);
		now[0] = CdpReadInstant(clock);
		((int64 *) now)[1] = generation;
		fcinfo->flinfo->fn_extra = now;
	}
	generation = ((int64 *) now)[1];
	set = CdpTraitSetGet(generation);
	nodes = (CdpNodeAcc **) palloc(mul_size(Max(n, 1), sizeof(CdpNodeAcc *)));
	for (int i = 0; i < n; i++)
		nodes[i] = CdpNodeOpen(set, collected->states[i]);
	CdpProfileEvaluate(set, nodes, n, now[0], &values);
	return traits_json(set, nodes, n, &values, raw);
}

Datum
cdp_traits_json_final(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(final_json(fcinfo, true));
}

Datum
cdp_trait_values_final(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(final_json(fcinfo, false));
}

PG_FUNCTION_INFO_V1(cdp_trait_json);

/*
 * cdp.trait_json(anyelement) returns jsonb: a value as cdp.profiles shows it.
 */
Datum
cdp_trait_json(PG_FUNCTION_ARGS)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 0);

	if (!OidIsValid(type))
		elog(ERROR, "could not determine the type of the argument");
	PG_RETURN_DATUM(CdpValueToJsonb(PG_GETARG_DATUM(0), false, type));
}
