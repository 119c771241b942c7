{# A model is a segment: its text is the predicate. The view of that name has
   profile_id and entered_at of its members. --full-refresh works out anew who
   is in it. #}
{% materialization cdp_segment, adapter='postgres' %}
  {% set object = cdp.cdp_object(['entity', 'exit_when', 'timezone', 'options', 'holdout', 'seed']) %}
  {% do object.update({'predicate': sql | trim}) %}
  {% if config.get('exclude') is not none %}
    {% do object.update({'exclude': [config.get('exclude')] if config.get('exclude') is string else config.get('exclude')}) %}
  {% endif %}
  {% if model.description %}{% do object.update({'description': model.description}) %}{% endif %}

  {{ run_hooks(pre_hooks, inside_transaction=False) }}
  {{ run_hooks(pre_hooks, inside_transaction=True) }}
  {% set changed = cdp.cdp_apply('segments', this.identifier, object) %}
  {% if changed == 0 and should_full_refresh() %}
    {% do run_query("SELECT cdp.reevaluate_segment(" ~ dbt.string_literal(this.identifier) ~ ")") %}
  {% endif %}
  {% set target_relation = cdp.cdp_view("select profile_id, entered_at from cdp.memberships where segment = " ~ dbt.string_literal(this.identifier)) %}
  {{ run_hooks(post_hooks, inside_transaction=True) }}
  {% do adapter.commit() %}
  {{ run_hooks(post_hooks, inside_transaction=False) }}
  {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}
